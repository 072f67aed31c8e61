"""Pipeline folders in diffusers' layout: found, checked as far as that needs no loading, identified, and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raymia.digests import files_digest
from raymia.errors import ConfigError
from raymia.replica import families
from raymia.replica.autoencoder import ALONE, Autoencoder
from raymia.replica.configs import check_index, check_part, check_tokenizer_config
from raymia.replica.device import quiet_libraries
from raymia.replica.documents import read_json
from raymia.replica.families import Family, LoadOptions
from raymia.replica.fetching import fetch
from raymia.replica.hub import download, remote_files, remote_headers
from raymia.replica.parts import Parts, beside_weights, is_tokenizer, name_of, weight_stems
from raymia.replica.protocol import Replica
from raymia.replica.schedule import Naming, Schedule
from raymia.replica.self_test import keep_texts, require_changed, self_test
from raymia.replica.single_file import NOTHING, Said, SingleFile, is_single_file, look, settle, unpack
from raymia.replica.staged_text import StagedText
from raymia.replica.tensors import check_built, check_tensors
from raymia.replica.weight_files import VARIANTS, WeightFiles, file_names, unreadable

INDEX = "model_index.json"
AUTOENCODER_BATCH = 4
"""Images in a call of an autoencoder alone."""


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline folder of a family.

    Attributes:
        path: the folder; for a hub id the snapshot in the local cache.
        family: of its model.
        revision: the hub's revision; none for a local folder.
        identity: what identifies a model that was made of a single file; none for others.
    """

    path: Path
    family: Family
    revision: str | None = None
    identity: str | None = None

    @cached_property
    def parts(self) -> dict[str, str]:
        """Class of each part that the pipeline has, as ``library.Class``."""
        return self.family.parts_in(read_json(self.path / INDEX))

    def schedule(self, naming: Naming = "levels") -> Schedule:
        """The model's own noise schedule."""
        return self.family.schedule(self.path, naming)

    def check(self) -> None:
        """Refuse a folder that cannot be attacked, as far as its documents tell.

        Raises:
            ConfigError: names the file or field, what was expected and what to do.
        """
        index = self.path / INDEX
        check_index(read_json(index), self.parts, self.family.fields, index)
        for part, path in self.parts.items():
            (check_tokenizer_config if is_tokenizer(path) else check_part)(self.path, part, path)
        quiet_libraries()
        parts = Parts(self.path, self.parts)
        for part in weight_stems(self.parts):
            check_built(parts, part)
        self.family.check(self.path)

    def check_weights(self) -> None:
        """Refuse a folder whose weights are not those of its configs, by the headers of their files.

        Raises:
            ConfigError: names the tensor or file.
        """
        quiet_libraries()
        parts = Parts(self.path, self.parts)
        for part in weight_stems(self.parts):
            check_tensors(parts, part)

    @cached_property
    def weights(self) -> dict[str, WeightFiles]:
        """The weight files of each part that has any.

        Raises:
            ConfigError: a part has no safetensors; says what is there.
        """
        parts = Parts(self.path, self.parts)
        return {part: parts.weights(part) for part in weight_stems(self.parts)}

    def latent_shape(self, resolution_px: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square image."""
        return self.family.latent_shape(self.path, resolution_px)

    def autoencoder_digest(self) -> str:
        """sha256 over the autoencoder's tensors and what its config says of them, whoever saved it and however often.

        Raises:
            ConfigError: a weight file cannot be read.
        """
        part = self.family.autoencoder
        if part not in self.parts:
            raise ConfigError(f"latent_cache: models of the family {self.family.name} have no autoencoder; leave it out")
        config = read_json(self.path / part / "config.json")
        own = {key: value for key, value in config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
        tensors: dict[str, Any] = {}
        for file in self.weights[part].files:
            tensors |= _tensors(file)
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """What identifies the model: the hub's revision, or sha256 over the names and contents of all files it is loaded from.

        Of a single file it is that file's, with what the job says of it.

        Raises:
            ConfigError: a file cannot be read.
        """
        known = self.identity or self.revision
        if known is not None:
            return known
        return files_digest(self.path, self._files())

    def load(self, options: LoadOptions) -> Replica:
        """Load the model, and hold its predictions against diffusers' own.

        Raises:
            ConfigError: see `Family.load` and `raymia.replica.self_test.self_test`.
        """
        parts = Parts(self.path, self.parts)
        replica = self.family.load(parts, options)
        self_test(replica, self.family, parts, options)
        if options.adapters:
            require_changed(replica, parts, options)
        return replica

    def load_autoencoder(self) -> Autoencoder:
        """Load the autoencoder alone, on the CPU.

        Raises:
            ConfigError: the family has none, or one of a class that is not loaded alone; or its weights do not fit.
        """
        part = self.family.autoencoder or ""
        kind = ALONE.get(name_of(self.parts.get(part, "")))
        if kind is None:
            known = ", ".join(ALONE)
            raise ConfigError(f"{self.path}: no autoencoder that can be used alone; expected a pipeline with one of {known}")
        quiet_libraries()
        return kind(Parts(self.path, self.parts), torch.device("cpu"), AUTOENCODER_BATCH, part)

    def load_text(self, options: LoadOptions, kept: StagedText) -> Replica:
        """Load text encoders alone, for `text`, and keep what replicas without any are tested with when they load.

        Raises:
            ConfigError: see `Family.load` and `raymia.replica.self_test.keep_texts`.
        """
        parts = Parts(self.path, self.parts)
        encoders = self.family.load(parts, replace(options, text="resident", staged=None, text_alone=True))
        keep_texts(encoders, self.family, parts, options, kept)
        return encoders

    def _files(self) -> Iterable[Path]:
        """Everything that the model is loaded from."""
        for part, weights in self.weights.items():
            yield self.path / part / "config.json"
            yield from weights.files
            yield from [] if weights.index is None else [weights.index]
        for pattern in beside_weights(self.parts):
            yield from (file for file in self.path.glob(pattern) if file.is_file() and not file.name.startswith("."))


def find_pipeline(model: str, with_weights: bool, revision: str | None = None, said: Said = NOTHING) -> PipelineFolder:
    """Find a pipeline folder and check it as far as that needs no loading: its documents, and the headers of its weights.

    Args:
        model: a folder, an fsspec URL of one, a single file, or a hub id; of a hub id the configs and the weights' headers are
            asked for, and the weights where `with_weights`.
        with_weights: whether the weights must be there.
        revision: of a hub id; none for the newest.
        said: of a single file, what it does not say itself.

    Raises:
        ConfigError: names the folder, file or field, what was expected and what to do.
    """
    if is_single_file(model):
        return _of_single_file(model, said)
    said.require_nothing(model)
    local = fetch(model) if "://" in model else _local(model)
    folder = _of_hub(model, with_weights, revision) if local is None else _of_path(local)
    folder.check()
    if local is None and not with_weights:
        _check_remote(model, folder)
    else:
        folder.check_weights()
    return folder


def load_replica(model: str, options: LoadOptions | None = None, revision: str | None = None) -> Replica:
    """Find a model, check it and load it.

    Args:
        model, revision: see `find_pipeline`.
        options: how it is run; by default in float32 at 512 px, on a GPU where there is one.

    Raises:
        ConfigError: see `find_pipeline` and `PipelineFolder.load`.
    """
    return find_pipeline(model, with_weights=True, revision=revision).load(options or LoadOptions())


def _local(model: str) -> Path | None:
    """The folder that a model names; none for what can only be a hub id.

    Raises:
        ConfigError: a path of no folder.
    """
    try:
        path = Path(model or "no name").expanduser()
        if path.is_dir():
            return path
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"replica.model {model!r}: no name of a folder ({error}); give a folder or a hub id") from error
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ConfigError(
            f"replica.model {model!r}: no such folder; give a folder in diffusers' layout, a .safetensors file or a hub id"
        )
    return None


def _of_path(path: Path, revision: str | None = None) -> PipelineFolder:
    return PipelineFolder(path, families.of(read_json(path / INDEX), path), revision)


def _of_single_file(model: str, said: Said) -> PipelineFolder:
    """The folder of a single file, with what it lacks from the job's base."""
    found = look(model)
    settle(found, said)
    base = None if said.base is None else _base(said.base, found)
    path, identity = unpack(found, said, base)
    folder = replace(_of_path(path), identity=identity)
    try:
        folder.check()
        folder.check_weights()
    except ConfigError as error:
        raise ConfigError(
            f"replica.model {model!r}, a {found.kind.title}, as the folder that was made of it: {error}"
        ) from error
    return folder


def _base(base: str, found: SingleFile) -> Parts:
    """The pipeline that parts of a single file are taken from, with the weights of those that it lacks.

    Raises:
        ConfigError: it is of another family; see `find_pipeline`.
    """
    if is_single_file(base):
        raise ConfigError(f"replica.base {base!r}: a single file; give a folder in diffusers' layout or a hub id")
    local = fetch(base) if "://" in base else _local(base)
    folder = _of_hub(base, False, None) if local is None else _of_path(local)
    if folder.family.name != found.kind.family:
        raise ConfigError(f"replica.base {base!r}: of the family {folder.family.name}; {found.path} is of {found.kind.family}")
    folder.check()
    if local is None:
        _download_weights(base, folder, found.lacks(folder.parts))
    return Parts(folder.path, folder.parts)


def _check_remote(model: str, folder: PipelineFolder) -> None:
    """As `PipelineFolder.check_weights`, of weights that are on the hub; where it cannot be asked, they are checked later."""
    quiet_libraries()
    parts, files = Parts(folder.path, folder.parts), remote_files(model, folder.revision)
    for part, stem in weight_stems(folder.parts).items() if files else ():
        check_tensors(parts, part, *remote_headers(model, folder.revision, part, stem, files))


def _of_hub(model: str, with_weights: bool, revision: str | None) -> PipelineFolder:
    path = download(model, [INDEX], revision)
    folder = _of_path(path, path.name)
    documents = [f"{part}/config.json" for part in weight_stems(folder.parts)]
    download(model, [*documents, *beside_weights(folder.parts)], folder.revision)
    if with_weights:
        _download_weights(model, folder, weight_stems(folder.parts))
    return folder


def _download_weights(model: str, folder: PipelineFolder, parts: Iterable[str]) -> None:
    for part in parts:
        stem = weight_stems(folder.parts)[part]
        for variant in VARIANTS:
            single, index = file_names(stem, variant)
            shards = f"{stem}{f'.{variant}' if variant else ''}-*-of-*.safetensors"
            download(model, [f"{part}/{name}" for name in (single, index, shards)], folder.revision)
            if any((folder.path / part / name).is_file() for name in (single, index)):
                break


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except Exception as error:
        # Whatever the library makes of somebody else's file.
        raise ConfigError(f"{file}: {unreadable(file, error)}") from error
