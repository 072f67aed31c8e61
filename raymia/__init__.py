"""Was this image in the training set of this diffusion model? Distributed membership inference on a Ray cluster."""
