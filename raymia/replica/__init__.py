"""What is attacked: one diffusion pipeline loaded on one device. Knows nothing of Ray or of attacks."""

import logging
import os

# Of what it says while it is imported nothing is for who scans; its errors are raised.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# Where torchao is installed, importing it tells of PyTorch's news.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
