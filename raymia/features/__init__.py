"""Models beside the attacked one: CLIP embeddings and the perceptual distance."""
