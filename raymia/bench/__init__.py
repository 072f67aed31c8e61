"""What this machine makes of the work: the model alone, the input path, the attacks, and the pipeline around them."""
