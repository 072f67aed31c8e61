"""A batch of samples in front of a replica, each evaluation made once, and the tools that attacks share."""
