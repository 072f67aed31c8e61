"""What is attacked: one diffusion pipeline loaded on one device. Knows nothing of Ray or of attacks."""
