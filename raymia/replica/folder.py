"""Pipeline folders in diffusers' layout: found, checked as far as that needs no loading, identified, and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from raymia.errors import ConfigError, first_line
from raymia.replica import families
from raymia.replica.families import Family, LoadOptions
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule
from raymia.replica.weights import fetch, read_tensors

INDEX = "model_index.json"
VARIANTS = (None, "fp16")


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline folder whose configs passed every check.

    Attributes:
        path: the folder; for a hub id the snapshot in the local cache.
        family: of its model.
        revision: the hub's revision; none for a local folder.
    """

    path: Path
    family: Family
    revision: str | None = None

    def schedule(self, naming: Naming = "levels") -> Schedule:
        """The model's own noise schedule."""
        return self.family.schedule(self.path, naming)

    def weights(self) -> tuple[str | None, list[Path]]:
        """Variant (none or ``fp16``) and safetensors files of all parts.

        Raises:
            ConfigError: a part has no safetensors.
        """
        parts = self.family.weights.items()
        for variant in VARIANTS:
            files = [weight_files(self.path / part, stem, variant) for part, stem in parts]
            if all(files):
                return variant, [file for part in files for file in part]
        lacking = [part for part, stem in parts if not weight_files(self.path / part, stem, None)]
        raise ConfigError(
            f"{self.path}: no safetensors weights in {', '.join(lacking)}; pickled weights (.bin, .ckpt, .pt) are never "
            "loaded. Save the pipeline again with save_pretrained(..., safe_serialization=True)"
        )

    def latent_shape(self, resolution_px: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square image."""
        return self.family.latent_shape(self.path, resolution_px)

    def autoencoder_digest(self) -> str:
        """sha256 over the autoencoder's tensors and what its config says of them, whoever saved it and however often.

        Raises:
            ConfigError: a weight file cannot be read.
        """
        if "vae" not in self.family.weights:
            raise ConfigError(f"latent_cache: models of the family {self.family.name} have no autoencoder; leave it out")
        config = read_json(self.path / "vae" / "config.json")
        own = {key: value for key, value in config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
        tensors: dict[str, Any] = {}
        for file in weight_files(self.path / "vae", self.family.weights["vae"], self.weights()[0]):
            tensors |= read_tensors(file)
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """What identifies the model: the hub's revision, or sha256 over configs, tokenizers and weights of a local folder."""
        if self.revision is not None:
            return self.revision
        digest = hashlib.sha256()
        for file in [*self._described(), *self.weights()[1]]:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def load(self, options: LoadOptions) -> Replica:
        """Load the model.

        Raises:
            ConfigError: see `Family.load`.
        """
        return self.family.load(self.path, self.weights()[0], options)

    def _described(self) -> Iterable[Path]:
        """Configs and the like, in order."""
        yield from (self.path / part / "config.json" for part in self.family.weights)
        for pattern in self.family.files:
            yield from sorted(self.path.glob(pattern))


def find_pipeline(model: str, with_weights: bool, revision: str | None = None) -> PipelineFolder:
    """Find a pipeline folder and check it as far as that needs no loading.

    Args:
        model: a folder, an fsspec URL of one, or a hub id; of a hub id the configs are downloaded, and the safetensors where
            `with_weights`.
        with_weights: whether the weights must be there.
        revision: of a hub id; none for the newest.

    Raises:
        ConfigError: names the folder, file or field, what was expected and what to do.
    """
    if "://" in model:
        folder = _of_path(fetch(model))
        with_weights = True
    elif Path(model).is_dir():
        folder = _of_path(Path(model))
        with_weights = True
    elif Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ConfigError(f"replica.model {model!r}: no such folder; give a folder in diffusers' layout or a hub id")
    else:
        folder = _of_hub(model, with_weights, revision)
    folder.family.check(folder.path)
    if with_weights:
        folder.weights()
    return folder


def load_replica(model: str, options: LoadOptions | None = None, revision: str | None = None) -> Replica:
    """Find a model, check it and load it.

    Args:
        model, revision: see `find_pipeline`.
        options: how it is run; by default in float32 at 512 px, on a GPU where there is one.

    Raises:
        ConfigError: see `find_pipeline` and `Family.load`.
    """
    return find_pipeline(model, with_weights=True, revision=revision).load(options or LoadOptions())


def _of_path(path: Path, revision: str | None = None) -> PipelineFolder:
    return PipelineFolder(path, families.of(read_json(path / INDEX), path), revision)


def _of_hub(model: str, with_weights: bool, revision: str | None) -> PipelineFolder:
    path = _download(model, [INDEX], revision)
    folder = _of_path(path, path.name)
    parts = folder.family.weights.items()
    _download(model, [*(f"{part}/config.json" for part, _ in parts), *folder.family.files], folder.revision)
    for variant in VARIANTS if with_weights else ():
        stems = [f"{part}/{stem}" + (f".{variant}" if variant else "") for part, stem in parts]
        patterns = [f"{stem}{ending}" for stem in stems for ending in (".safetensors", "-*-of-*.safetensors")]
        _download(model, [*patterns, *(f"{stem}.safetensors.index.json" for stem in stems)], folder.revision)
        if all(weight_files(path / part, stem, variant) for part, stem in parts):
            break
    return folder


def _download(model: str, patterns: list[str], revision: str | None) -> Path:
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, etag_timeout=5))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"replica.model {model!r}: no such folder, and no such pipeline on the hub or in its cache "
            f"({first_line(error)}); give a folder in diffusers' layout or the id of one"
        ) from error


def weight_files(part: Path, stem: str, variant: str | None) -> list[Path]:
    """The safetensors files of a part of a pipeline folder: one, or its shards; none where there are none."""
    name = stem + (f".{variant}" if variant else "")
    single, shards = part / f"{name}.safetensors", sorted(part.glob(f"{name}-*-of-*.safetensors"))
    return [single] if single.is_file() else shards


def present(index: Mapping[str, object], part: str) -> bool:
    """Whether a ``model_index.json`` says that the pipeline has a part."""
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a pipeline folder.

    Raises:
        ConfigError: it is missing, or none.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: missing or unreadable; expected a pipeline folder in diffusers' layout") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content
