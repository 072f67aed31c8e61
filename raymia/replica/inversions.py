"""Textual inversions: a word of the captions, and the vectors that text encoders read in its place.

diffusers loads the vectors under names that no caption holds, and a caption's word becomes these names while it is encoded: so
the same tokenizer gives the base, where the word is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from raymia.digests import file_digest
from raymia.errors import ConfigError, first_line
from raymia.replica.documents import read_json
from raymia.replica.parts import Parts
from raymia.replica.weight_files import Header, WeightFiles, read_headers

ENCODERS = {
    "stable_diffusion": {"text_encoder": "tokenizer"},
    "sdxl": {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
}
"""Text encoders that read a word, with their tokenizers, by family."""
NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Of the vectors of each, in a file that has them for two."""
ALONE = "emb_params"
"""Name of the vectors in a file that is called by its word."""
MOST_VECTORS = 75
"""Of a word: as many as a prompt has room for."""


@dataclass(frozen=True)
class Words:
    """Words of captions, with the names of their vectors."""

    names: Mapping[str, str]

    def put(self, prompts: Sequence[str]) -> list[str]:
        """The prompts with each word replaced where it stands alone; of words that begin alike the longest counts."""
        if not self.names:
            return list(prompts)
        words = "|".join(re.escape(word) for word in sorted(self.names, key=len, reverse=True))
        return [re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: self.names[found[0]], prompt) for prompt in prompts]


def is_inversion(file: Path) -> bool:
    """Whether a safetensors file holds the vectors of a word.

    Raises:
        ConfigError: it cannot be read.
    """
    headers = read_headers(WeightFiles(None, (file,)))
    if set(headers) in ({ALONE}, set(NAMES.values()), {"clip_l"}, {"clip_g"}):
        return True
    [only, *more] = headers.items() if headers else [("", Header((), ""))]
    return not more and len(only[1].shape) in (1, 2) and not only[0].endswith((".weight", ".bias"))


def word_of(file: Path, token: str | None) -> str:
    """The word: as the job says it, as the file names it, or the file's own name.

    Args:
        file: its safetensors.
        token: what the job says; none where it says nothing.

    Raises:
        ConfigError: the file cannot be read.
    """
    if token is not None:
        return token
    [first, *_] = read_headers(WeightFiles(None, (file,)))
    return file.stem if first in (ALONE, *NAMES.values()) else first


def described_inversion(file: Path) -> dict[str, Any]:
    """What a person or a program wants to know of the file of a word.

    Raises:
        ConfigError: it cannot be read.
    """
    headers = read_headers(WeightFiles(None, (file,)))
    shapes = {name: list(header.shape) for name, header in headers.items()}
    return {"file": str(file), "kind": "textual inversion", "word": word_of(file, None), "vectors": shapes, "refused": []}


def check_inversion(file: Path, token: str | None, family: str, folder: Path) -> None:
    """Refuse a word that the model cannot be told, by its file's header.

    Args:
        file, token: see `word_of`.
        family: of the model, by name.
        folder: of its pipeline.

    Raises:
        ConfigError: names the file and what does not fit.
    """
    if family not in ENCODERS:
        raise ConfigError(f"{file}: a textual inversion, which models of the family {family} cannot be told; leave it out")
    word = word_of(file, token)
    if not word.strip() or len(word) > 100:
        raise ConfigError(f"{file}: the word {word[:100]!r} is none that a caption can hold; set replica.adapters.token")
    headers = read_headers(WeightFiles(None, (file,)))
    for encoder, name in _names(headers, family, file).items():
        shape, width = headers[name].shape, read_json(folder / encoder / "config.json").get("hidden_size")
        if len(shape) not in (1, 2) or shape[-1] != width:
            raise ConfigError(f"{file}: {name} has the shape {shape}; {encoder} reads vectors {width} wide: another base")
        if len(shape) == 2 and not 0 < shape[0] <= MOST_VECTORS:
            raise ConfigError(f"{file}: {name} has {shape[0]} vectors; expected 1 to {MOST_VECTORS}")


def _names(headers: Mapping[str, Header], family: str, file: Path) -> dict[str, str]:
    """Which tensor each text encoder reads."""
    encoders = ENCODERS[family]
    if len(encoders) == 1:
        if len(headers) != 1 or set(headers) & {"clip_g"}:
            raise ConfigError(f"{file}: has {', '.join(headers)}; expected the vectors of one text encoder: another base")
        return {next(iter(encoders)): next(iter(headers))}
    lacking = [NAMES[encoder] for encoder in encoders if NAMES[encoder] not in headers]
    if lacking:
        raise ConfigError(f"{file}: lacks {', '.join(lacking)}; the model has {len(encoders)} text encoders: another base")
    return {encoder: NAMES[encoder] for encoder in encoders}


def attach_inversions(pipeline: Any, parts: Parts, family: str, inversions: Sequence[tuple[Path, str | None]]) -> Words:
    """Teach the loaded text encoders and tokenizers of a pipeline some words.

    Args:
        pipeline: diffusers' own, of these parts.
        parts: of which all that the pipeline has are loaded.
        family: of the model, by name.
        inversions: file and token of each, see `word_of`; they passed `check_inversion`.

    Raises:
        ConfigError: two have the same word, or one cannot be loaded.
    """
    names: dict[str, str] = {}
    for file, token in inversions:
        word = word_of(file, token)
        if word in names:
            raise ConfigError(f"{file}: the word {word!r} has vectors already; set another replica.adapters.token")
        # In small letters, as CLIP's tokenizers read everything.
        name = f"<|{file_digest(file)[:16]}|>"
        tensors = load_file(file)
        counts = set()
        for encoder, tensor in _names(read_headers(WeightFiles(None, (file,))), family, file).items():
            vectors = tensors[tensor].float()
            counts.add(1 if vectors.ndim == 1 else len(vectors))
            tokenizer = parts.loaded[ENCODERS[family][encoder]]
            try:
                pipeline.load_textual_inversion(vectors, token=name, tokenizer=tokenizer, text_encoder=parts.loaded[encoder])
            except Exception as error:
                # Whatever the libraries make of somebody else's file.
                raise ConfigError(f"{file}: cannot be put onto the model ({first_line(error)})") from error
        if len(counts) > 1:
            raise ConfigError(f"{file}: has {sorted(counts)} vectors; expected as many for each text encoder")
        names[word] = " ".join([name, *(f"{name}_{number}" for number in range(1, counts.pop()))])
    return Words(names)
