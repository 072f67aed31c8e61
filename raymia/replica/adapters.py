"""Adapters on a model's weights, such as LoRA: what a file is, and its loading by diffusers, unfused, to be switched.

Whatever diffusers or peft would say while they load one and go on, such as that a tensor has no module, is an error here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raymia.errors import ConfigError, first_line
from raymia.replica.inversions import Words, attach_inversions, is_inversion
from raymia.replica.own_pipeline import assembled
from raymia.replica.parts import Parts
from raymia.replica.weight_files import PICKLED, WeightFiles, read_headers, read_metadata

PAIR = (
    r"\.(?:lora_[AB](?:\.default)?\.weight|lora_(?:up|down)\.weight|(?:\w+_)?lora(?:_linear_layer)?\.(?:up|down)\.weight"
    r"|lokr_(?:w[12](?:_[ab])?|t2))$"
)
"""Ending of the tensors of an adapter's layer, in the layouts of peft, kohya, diffusers and LyCORIS' LoKr."""
BESIDE = r"(?:\.alpha|\.lora_B\.bias|\.network_alpha)$"
"""Ending of tensors that may stand beside them."""
REFUSED = {
    r"dora_scale$|lora_magnitude_vector": "DoRA, whose scales diffusers drops",
    r"\.hada_w|\.hada_t": "LoHa, which diffusers does not load",
    r"\.oft_|\.boft_": "an orthogonal fine-tune (OFT), which diffusers does not load",
    r"on_input$": "IA3, which diffusers does not load",
    r"\.diff(?:_b)?$": "differences of whole weights, which diffusers does not load",
    r"^(?:model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.": "a checkpoint: give it as replica.model",
    r"^control_model\.|^controlnet_": "a ControlNet, which is no membership target in itself",
}
"""What a file is by the name of a tensor, that is no adapter which can be served."""
SHOWN = 80
"""Characters of what a file says of itself."""
MOST = 100_000
"""Tensors of one file."""
BASES = {
    "stable_diffusion": ("sd_v1", "sd_v2", "stable-diffusion-v1", "stable-diffusion-v2"),
    "sdxl": ("sdxl", "stable-diffusion-xl"),
    "sd3": ("sd3", "stable-diffusion-3"),
    "flux": ("flux1", "flux-1", "flux.1"),
}
"""How trainers call the models that a file was made for, in its metadata, by family."""
FIELDS = ("ss_base_model_version", "modelspec.architecture")
"""Of the metadata, which say it."""


@dataclass(frozen=True)
class Adapter:
    """One adapter of a job.

    Attributes:
        file: its safetensors.
        weight: by which what it adds is multiplied.
        token: of a textual inversion, its word in captions; none for the one that the file names.
    """

    file: Path
    weight: float
    token: str | None = None


def find_adapter(path: str, weight_name: str | None) -> Path:
    """The safetensors file that a job names.

    Args:
        path: of the file, or of a folder.
        weight_name: of the file in a folder; none where there is one.

    Raises:
        ConfigError: there is none, or several; it is pickled.
    """
    found = Path(path).expanduser()
    if found.is_dir():
        names = sorted(file.name for file in found.glob("*.safetensors"))
        if weight_name is None and len(names) != 1:
            raise ConfigError(f"replica.adapters: {path} has {len(names)} safetensors; say which by weight_name")
        found = found / (weight_name or names[0])
    elif weight_name is not None and found.name != weight_name:
        raise ConfigError(f"replica.adapters: {path} is no folder; leave weight_name out")
    if found.suffix in PICKLED:
        raise ConfigError(
            f"replica.adapters: {found}: pickled weights are never loaded; give the adapter as safetensors, which most sites "
            "offer"
        )
    if found.suffix != ".safetensors" or not found.is_file():
        raise ConfigError(f"replica.adapters: {found}: no such file; expected a safetensors file")
    return found


def check_adapter(file: Path, family: str) -> None:
    """Refuse a file that is no adapter, or not one for models of a family, by its header.

    Args:
        file: a safetensors file.
        family: of the model, by name.

    Raises:
        ConfigError: names the file and the tensor or field.
    """
    names = list(read_headers(WeightFiles(None, (file,))))
    if not 0 < len(names) <= MOST:
        raise ConfigError(f"{file}: {len(names)} tensors; expected those of an adapter, at most {MOST}")
    for name in names:
        for pattern, what in REFUSED.items():
            if re.search(pattern, name):
                raise ConfigError(f"{file}: has the tensor {name}: it is {what}")
    other = next((name for name in names if not re.search(PAIR, name) and not re.search(BESIDE, name)), None)
    if other is not None:
        raise ConfigError(f"{file}: has the tensor {other}, which is no adapter's; expected LoRA or LoKr")
    metadata = read_metadata(file)
    for field in FIELDS:
        said = str(metadata.get(field, "")).lower()
        meant = [name for name, marks in BASES.items() if any(mark in said for mark in marks)]
        if meant and family not in meant:
            raise ConfigError(f"{file}: {field} says {said[:80]!r}, and replica.model is of the family {family}: another base")


def is_adapter(file: Path) -> bool:
    """Whether a safetensors file holds layers of an adapter, by the names of its tensors.

    Raises:
        ConfigError: it cannot be read.
    """
    return any(re.search(PAIR, name) for name in read_headers(WeightFiles(None, (file,))))


def described(file: Path) -> dict[str, Any]:
    """What a person or a program wants to know of an adapter's file.

    Raises:
        ConfigError: it cannot be read.
    """
    names = list(read_headers(WeightFiles(None, (file,))))
    stems = sorted({re.sub(PAIR, "", name) for name in names if re.search(PAIR, name)})
    metadata = read_metadata(file)
    said = {field: metadata[field][:SHOWN] for field in FIELDS if field in metadata}
    texts = sum(bool(re.match(r"text_encoder|lora_te", stem)) for stem in stems)
    kind = "LoKr" if any(".lokr_" in name for name in names) else "LoRA"
    refused = [what for pattern, what in REFUSED.items() if any(re.search(pattern, name) for name in names)]
    row = {"file": str(file), "kind": kind, "layers": len(stems), "of_text_encoders": texts}
    return {**row, "made_for": said or None, "refused": refused}


def attach(kind: Any, parts: Parts, family: str, adapters: Sequence[Adapter]) -> Words:
    """Put adapters onto the loaded parts of a pipeline, unfused and switched on.

    Args:
        kind: diffusers' class of the pipeline.
        family: of the model, by name.
        parts: of which all that the pipeline has are loaded.
        adapters: in order.

    Returns:
        The words of captions that textual inversions stand for.

    Raises:
        ConfigError: a file that matches no module or only some, or does not fit; or the pipeline takes none.
    """
    if not hasattr(kind, "load_lora_weights"):
        raise ConfigError(f"replica.adapters: diffusers' {getattr(kind, '__name__', kind)} takes none")
    modules = [part for part in parts.loaded.values() if isinstance(part, nn.Module)]
    dtypes = [next(module.parameters()).dtype for module in modules]
    pipeline = assembled(kind, parts)
    inversions = [adapter for adapter in adapters if is_inversion(adapter.file)]
    layered = [adapter for adapter in adapters if adapter not in inversions]
    for number, adapter in enumerate(layered):
        name = f"adapter_{number}"
        with _nothing_left_over(adapter.file):
            pipeline.load_lora_weights(
                str(adapter.file.parent),
                weight_name=adapter.file.name,
                use_safetensors=True,
                local_files_only=True,
                adapter_name=name,
            )
        _require_all(adapter.file, modules, name)
    if layered:
        pipeline.set_adapters([f"adapter_{number}" for number in range(len(layered))], [one.weight for one in layered])
    words = attach_inversions(pipeline, parts, family, [(one.file, one.token) for one in inversions])
    for module, dtype in zip(modules, dtypes, strict=True):
        for parameter in (one for one in module.parameters() if one.dtype != dtype and one.is_floating_point()):
            parameter.data = parameter.data.to(dtype)
        module.eval().requires_grad_(False)
    return words


def switch(modules: Sequence[nn.Module], on: bool) -> None:
    """Let modules compute with their adapters, or as if they had none."""
    for layer in _layers(modules):
        layer._disable_adapters = not on


def tuned(modules: Sequence[nn.Module]) -> bool:
    """Whether any of the modules has adapters."""
    return bool(_layers(modules))


def _layers(modules: Sequence[nn.Module]) -> list[Any]:
    """Layers that have adapters."""
    # A second to import, which most replicas need not spend.
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for module in modules for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def _require_all(file: Path, modules: Sequence[nn.Module], name: str) -> None:
    """Refuse an adapter of which not every layer came to be."""
    stems = {re.sub(PAIR, "", one) for one in read_headers(WeightFiles(None, (file,))) if re.search(PAIR, one)}
    layers = _layers(modules)
    made = sum(any(name in getattr(layer, table) for table in layer.adapter_layer_names) for layer in layers)
    if made < len(stems):
        which = "no module" if not made else f"only {made} modules"
        raise ConfigError(f"{file}: has {len(stems)} layers and matches {which} of the model; it is made for another base")


@contextmanager
def _nothing_left_over(file: Path) -> Iterator[None]:
    """Turn what the libraries raise or warn of within this block into an error that names the file."""
    said: list[str] = []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, loggers = _Listener(logging.WARNING), [logging.getLogger(name) for name in ("diffusers", "peft")]
    before = [log.level for log in loggers]
    for log in loggers:
        log.addHandler(listener)
        log.setLevel(logging.WARNING)
    try:
        yield
    except Exception as error:
        # Whatever the libraries make of somebody else's file.
        raise ConfigError(f"{file}: cannot be put onto the model ({type(error).__name__}: {first_line(error)})") from error
    finally:
        for log, level in zip(loggers, before, strict=True):
            log.removeHandler(listener)
            log.setLevel(level)
    # Of a part that the file has no layers for they say so, too.
    wrong = [text for text in said if not text.startswith("No LoRA keys associated")]
    if wrong:
        raise ConfigError(f"{file}: does not fit the model: {wrong[0].splitlines()[0][:300]}")
