"""Weights of one file that somebody else made: checkpoints that are turned into folders, and adapters."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from raymia.replica import single_file
from raymia.replica.adapters import Adapter, check_adapter, described, is_adapter
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline
from raymia.replica.gguf_file import gguf_headers, gguf_tensors
from raymia.replica.inversions import check_inversion, described_inversion, is_inversion
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.single_file import Said, is_single_file, look
from raymia.replica.weight_files import Header
from raymia.testbed.architecture import save_tiny
from tests.fuzz.mutation import mutate, mutate_safetensors
from tests.fuzz.target import Target
from tests.replica.original import of_sd1, tiny_kinds, write_gguf

METADATA = {
    "format": "pt",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.prediction_type": "epsilon",
    "modelspec.title": "a title",
    "ss_base_model_version": "sd_v1",
}
SAID = (
    Said(),
    Said(prediction_type="epsilon"),
    Said(prediction_type="v_prediction", zero_terminal_snr=False),
    Said(prediction_type="epsilon", zero_terminal_snr=True),
)


class SingleFiles(Target):
    """Checkpoints of one file: turned into a folder that is read as any other, or refused in one line."""

    name = "single_files"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        model = folder / "model"
        save_tiny(model)
        self._kinds = tiny_kinds("sd1", model)
        self._file = folder / "model.safetensors"
        save_file({name: one.contiguous() for name, one in of_sd1(model).items()}, self._file, METADATA)
        self._base = self._file.read_bytes()

    def once(self, rng: random.Random) -> None:
        self._file.write_bytes(_damaged(self._base, rng))
        said, cache = rng.choice(SAID), self.folder / "cache"
        with patch.object(single_file, "KINDS", self._kinds), patch.dict(os.environ, {"RAYMIA_CACHE": str(cache)}):
            self._refusing(lambda: is_single_file(str(self._file)) and look(str(self._file)).described())
            if self._refusing(lambda: find_pipeline(str(self._file), True, said=said)):
                found = find_pipeline(str(self._file), True, said=said)
                assert found.family.name == "stable_diffusion"
                assert found.fingerprint() == find_pipeline(str(self._file), True, said=said).fingerprint()
        made = [path.name for path in cache.glob("models/*") if path.is_dir()]
        left = [name for name in made if not re.fullmatch("[0-9a-f]{32}", name)]
        assert not left, f"left behind: {left}"
        shutil.rmtree(cache, ignore_errors=True)


class GgufFiles(Target):
    """GGUF: every tensor of the shape that was said, or refused in one line."""

    name = "gguf"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = folder / "model.gguf"
        writer = gguf.GGUFWriter(self._file, "flux")
        writer.add_array("words", ["a", "b"])
        writer.add_array("comfy.gguf.orig_shape.w", [4, 8, 4])
        numbers = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
        for name, kind in (("w", gguf.GGMLQuantizationType.F32), ("x", gguf.GGMLQuantizationType.Q8_0)):
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        write_gguf(writer)
        self._base = self._file.read_bytes()

    def once(self, rng: random.Random) -> None:
        self._file.write_bytes(mutate(self._base, rng))
        if self._refusing(lambda: gguf_headers(self._file)):
            headers = gguf_headers(self._file)
            self._refusing(lambda: self._read(headers))

    def _read(self, headers: Mapping[str, Header]) -> None:
        for name, tensor in gguf_tensors(self._file, headers).items():
            assert tuple(tensor.shape) == headers[name].shape


class Adapters(Target):
    """Adapters: on the model whole, so that off is the base to the bit, or refused in one line."""

    name = "adapters"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        model = folder / "model"
        save_tiny(model)
        self._model = find_pipeline(str(model), with_weights=True)
        self._file = folder / "lora.safetensors"
        replica = self._load()
        replica._denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        generator = torch.Generator().manual_seed(0)
        layers = {
            f"unet.{name}": torch.randn(one.shape, generator=generator)
            for name, one in get_peft_model_state_dict(replica._denoiser).items()
        }
        save_file(layers, self._file, METADATA)
        self._bases = [self._file.read_bytes()]
        save_file({"<cat>": torch.randn(2, 64, generator=generator)}, self._file, METADATA)
        self._bases.append(self._file.read_bytes())
        self._bare = _predicted(self._load())

    def once(self, rng: random.Random) -> None:
        self._file.write_bytes(_damaged(rng.choice(self._bases), rng))
        self._refusing(lambda: is_adapter(self._file) and described(self._file))
        self._refusing(lambda: is_inversion(self._file) and described_inversion(self._file))
        if not self._refusing(self._check):
            return
        loaded: list[LatentDiffusion] = []
        if self._refusing(lambda: loaded.append(self._load(Adapter(self._file, 1.0)))):
            assert not torch.equal(_predicted(loaded[0], *loaded[0].words()), self._bare)
            with loaded[0].without_adapters():
                assert torch.equal(_predicted(loaded[0]), self._bare)

    def _check(self) -> None:
        if is_inversion(self._file):
            check_inversion(self._file, None, "stable_diffusion", self._model.path)
        else:
            check_adapter(self._file, "stable_diffusion")

    def _load(self, *adapters: Adapter) -> Any:
        return self._model.load(LoadOptions(device="cpu", resolution_px=64, adapters=adapters))


def _predicted(replica: LatentDiffusion, *words: str) -> torch.Tensor:
    z = torch.randn(1, *replica.latent_shape(64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return replica.predicted_noise(z, 300, replica.text([" ".join(["a picture", *words])]))


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy of a safetensors file with damage where lies are told; what follows the header is numbers."""
    if rng.random() < 0.7:
        return mutate_safetensors(content, rng)
    size = min(len(content), 4096)
    return mutate(content[:size], rng) + content[size:]
