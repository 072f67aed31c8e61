"""What is attacked: one diffusion pipeline loaded on one device. Knows nothing of Ray or of attacks."""

import os

# Of what it says while it is imported nothing is for who scans; its errors are raised.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
