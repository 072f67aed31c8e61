"""How fast this machine is: the model alone, the input path, the attacks, and the pipeline around them."""
