"""What is scanned: manifests, shards and images."""
