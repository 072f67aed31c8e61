"""Checkpoints of one file, as sites for sharing models publish them: what a file is, and the pipeline folder made of it.

A file is turned into a folder in diffusers' layout once, in the user's cache. What it does not say of itself the job must say.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from raymia.digests import file_digest
from raymia.errors import ConfigError, first_line
from raymia.replica import gguf_file
from raymia.replica.documents import read_json
from raymia.replica.families import FAMILIES, Family
from raymia.replica.fetching import cache_folder
from raymia.replica.gguf_file import gguf_headers, gguf_tensors
from raymia.replica.parts import Parts, beside_weights, stem_of, weight_stems
from raymia.replica.weight_files import (
    PICKLED,
    Header,
    WeightFiles,
    check_dtypes,
    file_names,
    read_headers,
    read_metadata,
)

PredictionType = Literal["epsilon", "v_prediction"]
FORMAT = 1
"""Of the folders that are made: another one makes them anew."""
PACKAGED = Path(__file__).parent / "single_files"
NOTED_BYTES = 2**26
"""Of files whose sha256 takes long enough to be kept."""
VOCABULARY = PACKAGED / "clip_vocabulary"
"""CLIP's, which all packaged tokenizers have."""

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", gguf_file.ENDING)
UNPICKLE = (
    "python -c \"import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', "
    "weights_only=True); "
    "d = d.get('state_dict', d); s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, "
    'sys.argv[2])" IN.ckpt OUT.safetensors'
)
"""The command that turns a pickled file into safetensors, for people to run where nothing can come to harm."""

DENOISER, AUTOENCODER = "model.diffusion_model.", ("first_stage_model.", "vae.")
"""What the names of their tensors begin with."""
NO_WEIGHTS = ("position_ids", "logit_scale")
"""Ends of the names of tensors that no class of a pipeline's parts has."""
OF_TRAINING = "first_stage_model.loss."
DROPPED = re.compile(r"cond_stage_model\.model\.(transformer\.resblocks\.23\.|text_projection$)")
"""What Stable Diffusion 2 was trained without: the last layer of its text encoder, and what stands above it."""
QUANTISED = re.compile(
    r"(^|\.)(scaled_fp8|comfy_quant|scale_weight|scale_input|weight_scale|input_scale)$|\.(absmax|quant_map)$|quant_state"
)
"""Names of tensors that say how others were rounded."""
CHANNELS = {9: "for inpainting", 8: "for editing (InstructPix2Pix)", 5: "told of depth", 7: "for upscaling"}
"""What a UNet is by the channels of its input, where these are not its latents' four."""
ADDED = {2560: "an SDXL refiner"}
"""What a UNet is by the width of its further condition."""
ELSE = {
    r"lora_(up|down|A|B)\b|\.lora\.|hada_w|lokr_w|oft_(blocks|diag)|dora_scale": "a LoRA or its like, which changes a model "
    "and is none: give the model that it was made for as replica.model, and this file as an adapter",
    r"^control_model\.|controlnet|input_hint_block": "a ControlNet, which steers a model and is none; give the model",
    r"^(image_proj|ip_adapter)\.": "an IP-Adapter, which steers a model and is none; give the model",
    r"^(emb_params|clip_[lg]|string_to_param.*)$": "a textual inversion, which is a word and no model: give the model as "
    "replica.model, and this file as an adapter",
    r"distilled_guidance_layer|single_stream_modulation": "a Chroma or FLUX.2; of these give a folder in diffusers' layout",
    r"^(down_blocks|transformer_blocks|single_transformer_blocks)\.": "a denoiser in diffusers' own "
    "layout; put it into a folder in that layout, beside the other parts",
    r"^(encoder|decoder)\.(conv_in|down|up|down_blocks)": "an autoencoder alone; give the model",
    r"^(encoder\.block|text_model|transformer\.resblocks)\.": "a text encoder alone; give the model",
}
"""Files that are no whole denoiser, by what the names of tensors hold: what they are and what to do."""
ARCHITECTURES: dict[str, PredictionType] = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
"""What the metadata `modelspec.architecture` says of the output, by its beginning."""
TYPES: dict[str, PredictionType] = {
    **dict.fromkeys(("epsilon", "eps"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred"), "v_prediction"),
}
"""Values of the metadata `modelspec.prediction_type`."""


@dataclass(frozen=True)
class Said:
    """What a job says of a single file; see the fields of `replica`.

    Attributes:
        base: a folder or hub id, for parts that the file lacks.
        prediction_type: what the denoiser puts out.
        zero_terminal_snr: whether the last step of its schedule is without signal.
    """

    base: str | None = None
    prediction_type: PredictionType | None = None
    zero_terminal_snr: bool | None = None

    def require_nothing(self, model: str) -> None:
        """Refuse to be told of a model that is no single file.

        Raises:
            ConfigError: names the field.
        """
        for field in ("base", "prediction_type", "zero_terminal_snr"):
            if getattr(self, field) is not None:
                raise ConfigError(
                    f"replica.{field}: is of a model in a single file, and {model} is a folder, which says it itself; leave it "
                    "out"
                )


NOTHING = Said()


@dataclass(frozen=True)
class Kind:
    """One architecture of single files.

    Attributes:
        name: also of the folder with its configs.
        title: what people call it.
        family: the name of its family.
        context: width of the text states, of a UNet.
        added: width of its further condition; none where it has none.
        prefixes: of the names of tensors, by part, apart from the denoiser and the autoencoder.
        configs: folder of all its configs and tokenizers; none where the job's base has them.
    """

    name: str
    title: str
    family: str
    context: int | None = None
    added: int | None = None
    prefixes: Mapping[str, str] | None = None
    configs: Path | None = None


KINDS = (
    Kind(
        "sd1",
        "Stable Diffusion 1.x",
        "stable_diffusion",
        768,
        None,
        {"text_encoder": "cond_stage_model.transformer."},
        PACKAGED / "sd1",
    ),
    Kind(
        "sd2",
        "Stable Diffusion 2.x",
        "stable_diffusion",
        1024,
        None,
        {"text_encoder": "cond_stage_model.model."},
        PACKAGED / "sd2",
    ),
    Kind(
        "sdxl",
        "SDXL",
        "sdxl",
        2048,
        2816,
        {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
        PACKAGED / "sdxl",
    ),
)
"""Those whose denoiser is a UNet."""
SD3 = Kind("sd3", "Stable Diffusion 3 or 3.5", "sd3")
FLUX_DEV, FLUX_SCHNELL = Kind("flux-dev", "FLUX.1 dev", "flux"), Kind("flux-schnell", "FLUX.1 schnell", "flux")
FLUX_CHANNELS, FLUX_WIDTH = 64, 3072
"""Of the transformer's packed input, and its width, which diffusers' converter takes as given."""


@dataclass(frozen=True)
class SingleFile:
    """What a file is.

    Attributes:
        path: of the file.
        kind: its architecture.
        held: names of the tensors of each part that it holds.
        headers: of these tensors.
        marks: what it says of what the denoiser puts out, by what says so.
        terminal: whether its last step is without signal, with what says so; none where nothing does.
    """

    path: Path
    kind: Kind
    held: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, Header]
    marks: Mapping[str, PredictionType]
    terminal: tuple[bool, str] | None

    @property
    def family(self) -> Family:
        """Of the model."""
        return FAMILIES.get(self.kind.family)()

    @cached_property
    def digest(self) -> str:
        """sha256 of the file.

        Raises:
            ConfigError: it cannot be read.
        """
        return _digest(self.path)

    def lacks(self, declared: Mapping[str, str]) -> list[str]:
        """The parts with weights that the file does not hold.

        Args:
            declared: class of each part of the pipeline, as ``library.Class``.
        """
        return [part for part in weight_stems(declared) if part not in self.held]

    def described(self) -> dict[str, Any]:
        """What a person or a program wants to know of the file."""
        parts, optional = self.family.parts, self.family.optional
        row: dict[str, Any] = {
            "file": str(self.path),
            "family": self.kind.family,
            "kind": self.kind.title,
            "holds": sorted(self.held),
            "lacks": [part for part in self.lacks(parts) if part not in optional],
        }
        if self.kind.context is None:
            return {**row, "prediction_type": "flow", "told_by": ["its architecture"], "zero_terminal_snr": None}
        types = sorted(set(self.marks.values()))
        terminal = None if self.terminal is None else self.terminal[0]
        kind = " or ".join(types) or None
        return {**row, "prediction_type": kind, "told_by": sorted(self.marks), "zero_terminal_snr": terminal}


def is_single_file(model: str) -> bool:
    """Whether a model's name is that of a single file, be it there or not."""
    try:
        path = Path(model).expanduser()
        return not path.is_dir() and (path.is_file() or model.lower().endswith(ENDINGS))
    except (OSError, ValueError, RuntimeError):
        return False


def look(model: str) -> SingleFile:
    """Tell what a single file is by the names and shapes of its tensors and by its metadata; no tensor is read.

    Raises:
        ConfigError: it is not there, cannot be read, or is none that is supported; says what it is and what to do.
    """
    where, ending = f"replica.model {model!r}", Path(model).suffix.lower()
    if ending in PICKLED:
        raise ConfigError(
            f"{where}: pickled weights may run code when they are read, and are never loaded; where nothing can come to harm, "
            f"convert them: {UNPICKLE}"
        )
    if "://" in model:
        raise ConfigError(f"{where}: a single file is read from this machine alone; download it and give its path")
    path = Path(model).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{where}: no such file; give a .safetensors or .gguf file, a folder in diffusers' layout or a hub id"
        )
    if ending == gguf_file.ENDING:
        headers, metadata = gguf_headers(path), {}
    else:
        headers, metadata = read_headers(WeightFiles(None, (path,))), read_metadata(path)
    quantised = next((name for name in headers if QUANTISED.search(name)), None)
    if quantised is not None:
        raise ConfigError(f"{where}: {quantised} says that weights are quantised; give the file it was made from")
    kind = _kind(headers, where)
    held = _held(headers, kind)
    for part, names in held.items():
        check_dtypes(dict(headers), names, path / part)
    if kind.context is None:
        return SingleFile(path, kind, held, headers, {}, None)
    marks = _marks(headers, metadata, where)
    return SingleFile(path, kind, held, headers, marks, _terminal(headers, marks))


def _kind(headers: Mapping[str, Header], where: str) -> Kind:
    bare = {name.removeprefix(DENOISER): header for name, header in headers.items()}
    first = headers.get(f"{DENOISER}input_blocks.0.0.weight")
    for pattern, what in ELSE.items():
        if any(re.search(pattern, name) for name in (bare if first is None else headers)):
            raise ConfigError(f"{where}: {what}")
    return _flow_kind(headers, bare, where) if first is None else _unet_kind(headers, first, where)


def _flow_kind(headers: Mapping[str, Header], bare: Mapping[str, Header], where: str) -> Kind:
    flux = bare.get("img_in.weight") if "double_blocks.0.img_attn.qkv.weight" in bare else None
    if flux is None and "joint_blocks.0.x_block.attn.qkv.weight" not in bare:
        known = ", ".join((*(kind.title for kind in KINDS), SD3.title, "FLUX.1"))
        raise ConfigError(f"{where}: none of {known} by the names of its tensors; give a folder in diffusers' layout")
    texts = next((name for name in headers if name.startswith("text_encoders.")), None)
    if texts is not None:
        raise ConfigError(
            f"{where}: holds text encoders ({texts}), which are read from files of Stable Diffusion 1.x, 2.x and SDXL alone; "
            "give the file of the transformer without them, and replica.base, which has them"
        )
    if flux is None:
        return SD3
    width, channels = flux.shape
    if channels != FLUX_CHANNELS:
        raise ConfigError(
            f"{where}: a FLUX.1 whose img_in.weight takes {channels} channels; expected {FLUX_CHANNELS}: Fill, Depth and Canny "
            "are told of an image, which is not supported"
        )
    if width != FLUX_WIDTH:
        raise ConfigError(f"{where}: img_in.weight is {width} wide, FLUX.1 {FLUX_WIDTH}; give a folder in diffusers' layout")
    return FLUX_DEV if any(name.startswith("guidance_in.") for name in bare) else FLUX_SCHNELL


def _unet_kind(headers: Mapping[str, Header], first: Header, where: str) -> Kind:
    if sum(name.startswith("model_ema.") for name in headers) > 2:
        raise ConfigError(
            f"{where}: holds two denoisers, the trained one and its average (model_ema.*); give a file, or the published "
            "folder, of the one that is meant"
        )
    for name in ("edm_mean", "edm_vpred.sigma_max"):
        if name in headers:
            raise ConfigError(
                f"{where}: has {name}: a model of the EDM schedule (Playground 2.5, CosXL), which is not supported"
            )
    if first.shape[1] != 4:
        what = CHANNELS.get(first.shape[1], "of another kind")
        raise ConfigError(f"{where}: a UNet of {first.shape[1]} input channels, {what}, is not supported; expected 4")
    contexts = {
        header.shape[1]
        for name, header in headers.items()
        if name.startswith(DENOISER) and name.endswith("attn2.to_k.weight") and len(header.shape) == 2
    }
    label = headers.get(f"{DENOISER}label_emb.0.0.weight")
    added = None if label is None else label.shape[1]
    for kind in KINDS:
        if contexts == {kind.context} and added == kind.added:
            return kind
    what = ADDED.get(added or 0, "a UNet")
    raise ConfigError(
        f"{where}: {what} under text states {sorted(contexts)} wide and a further condition {added} wide; supported are "
        + ", ".join(f"{kind.title} ({kind.context}, {kind.added})" for kind in KINDS)
    )


def _held(headers: Mapping[str, Header], kind: Kind) -> dict[str, tuple[str, ...]]:
    unet = kind.context is not None
    prefixes = {"vae": AUTOENCODER, **{part: (prefix,) for part, prefix in (kind.prefixes or {}).items()}}
    prefixes["unet" if unet else "transformer"] = (DENOISER,)
    held: dict[str, tuple[str, ...]] = {}
    for part, starts in prefixes.items():
        names = [name for name in headers if name.startswith(starts) and not name.startswith(OF_TRAINING)]
        held[part] = tuple(name for name in names if not name.endswith(NO_WEIGHTS))
    if not unet and not held["transformer"]:
        held["transformer"] = tuple(name for name in headers if not name.startswith(AUTOENCODER))
    return {part: names for part, names in held.items() if names}


def _marks(headers: Mapping[str, Header], metadata: Mapping[str, str], where: str) -> dict[str, PredictionType]:
    marks: dict[str, PredictionType] = {}
    if "v_pred" in headers:
        marks["the tensor v_pred"] = "v_prediction"
    written = metadata.get("modelspec.prediction_type")
    if written:
        if written.lower() not in TYPES:
            raise ConfigError(
                f"{where}: its metadata modelspec.prediction_type is {written!r}; supported are epsilon and v_prediction"
            )
        marks["the metadata modelspec.prediction_type"] = TYPES[written.lower()]
    architecture = metadata.get("modelspec.architecture", "").lower()
    for beginning, meant in ARCHITECTURES.items():
        if architecture.startswith(beginning):
            marks["the metadata modelspec.architecture"] = meant
    return marks


def _terminal(headers: Mapping[str, Header], marks: Mapping[str, PredictionType]) -> tuple[bool, str] | None:
    if "ztsnr" in headers:
        return True, "the tensor ztsnr"
    if "v_pred" in headers:
        return False, "the tensor v_pred without ztsnr"
    if marks.get("the metadata modelspec.architecture") == "v_prediction":
        return False, "the metadata modelspec.architecture"
    return None


def settle(found: SingleFile, said: Said) -> tuple[PredictionType | None, bool]:
    """What the denoiser puts out, and whether its last step is without signal; none and False of a flow.

    Raises:
        ConfigError: neither the file nor the job says it, or they say different things; names both.
    """
    where = f"replica.model {str(found.path)!r}"
    if found.kind.context is None:
        for field in ("prediction_type", "zero_terminal_snr"):
            if getattr(said, field) is not None:
                raise ConfigError(f"replica.{field}: {found.kind.title} is a rectified flow, by {where}; leave it out")
        return None, False
    told = {**found.marks, **({"replica.prediction_type": said.prediction_type} if said.prediction_type else {})}
    if not told:
        raise ConfigError(
            f"{where}: a {found.kind.title} that does not say what it puts out; read its page and set replica.prediction_type: "
            "epsilon (noise: most models, Stable Diffusion 2 base among them) or v_prediction (Stable Diffusion 2.x at 768 px, "
            "and what calls itself v-pred)"
        )
    if len(set(told.values())) > 1:
        raise ConfigError(
            f"{where}: {' but '.join(f'{how} says {kind}' for how, kind in told.items())}; give the one that is true"
        )
    prediction_type = next(iter(told.values()))
    if found.terminal is None and said.zero_terminal_snr is None and prediction_type == "v_prediction":
        raise ConfigError(
            f"{where}: a v-prediction {found.kind.title} that does not say how its schedule ends; read its page and set "
            "replica.zero_terminal_snr: true (NoobAI and others that say zero terminal SNR, or zsnr) or false"
        )
    if found.terminal is not None and said.zero_terminal_snr not in (None, found.terminal[0]):
        raise ConfigError(
            f"{where}: {found.terminal[1]} says {str(found.terminal[0]).lower()} but replica.zero_terminal_snr says "
            f"{str(said.zero_terminal_snr).lower()}; give the one that is true"
        )
    return prediction_type, bool(found.terminal[0] if found.terminal is not None else said.zero_terminal_snr)


def unpack(found: SingleFile, said: Said, base: Parts | None) -> tuple[Path, str]:
    """The pipeline folder of a single file, made by the first process on the machine that asks, and what identifies it.

    Args:
        found: what the file is.
        said: what the job says of it.
        base: a checked pipeline of the same family, for the parts that the file lacks; none where the job names none.

    Raises:
        ConfigError: see `settle`; the file lacks a part that no base has, or a tensor; or the cache cannot hold the folder.
    """
    prediction_type, zero = settle(found, said)
    configs = found.kind.configs
    if configs is None:
        if base is None:
            raise ConfigError(
                f"replica.model {str(found.path)!r}: {found.kind.title} in a single file needs replica.base, a folder or hub "
                "id of the model that it was made from, for its configs, tokenizers and what else it lacks"
            )
        configs, declared = base.folder, base.declared
    else:
        declared = found.family.parts
    lacks = found.lacks(declared)
    if lacks and base is None:
        raise ConfigError(
            f"replica.model {str(found.path)!r}: a {found.kind.title} without its {' and '.join(lacks)}; set replica.base to a "
            "folder or hub id that has what it was trained with"
        )
    if base is not None and not lacks:
        raise ConfigError(f"replica.base: {found.path} lacks nothing that would be taken of it; leave it out")
    taken = _taken(found, configs, declared, lacks, base)
    listed = sorted((name, _digest(file)) for name, file in taken.items())
    decisive = [FORMAT, found.digest, found.kind.name, prediction_type, zero, listed]
    identity = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    folder = cache_folder() / identity[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _write(folder, found, declared, taken, (prediction_type, zero))
    except OSError as error:
        raise ConfigError(
            f"replica.model {found.path}: {folder.parent} cannot hold its folder ({first_line(error)}); set RAYMIA_CACHE"
        ) from error
    return folder, identity


def _taken(
    found: SingleFile, configs: Path, declared: Mapping[str, str], lacks: Iterable[str], base: Parts | None
) -> dict[str, Path]:
    """The files that go into the folder as they are, by their name in it."""
    taken: dict[str, Path] = {}
    for pattern in beside_weights(declared):
        taken |= {file.relative_to(configs).as_posix(): file for file in sorted(configs.glob(pattern)) if file.is_file()}
    for part in found.held:
        taken[f"{part}/config.json"] = configs / part / "config.json"
    for part in lacks if base is not None else ():
        assert base is not None
        weights = base.weights(part)
        files = [base.folder / part / "config.json", *weights.files, *([] if weights.index is None else [weights.index])]
        words = part.replace("text_encoder", "tokenizer")
        if words != part and words in declared:
            taken = {name: file for name, file in taken.items() if not name.startswith(f"{words}/")}
            files += [file for file in sorted((base.folder / words).glob("*")) if file.is_file()]
        taken |= {file.relative_to(base.folder).as_posix(): file for file in files}
    for name in [name for name in taken if name.endswith("/tokenizer_config.json")]:
        place = name.removesuffix("tokenizer_config.json")
        if taken[name].is_relative_to(PACKAGED):
            taken |= {f"{place}{file.name}": file for file in sorted(VOCABULARY.iterdir())}
    return taken


def _write(
    folder: Path,
    found: SingleFile,
    declared: Mapping[str, str],
    taken: Mapping[str, Path],
    settled: tuple[PredictionType | None, bool],
) -> None:
    """Write the folder, which is there only once it is whole."""
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for name, file in taken.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, draft / name)
        prediction_type, zero = settled
        if prediction_type is not None:
            _change(draft / "scheduler" / "scheduler_config.json", prediction_type=prediction_type, rescale_betas_zero_snr=zero)
        if found.kind.name == "sd2":
            _change(draft / "unet" / "config.json", sample_size=96 if prediction_type == "v_prediction" else 64)
        for part in found.held:
            name, _ = file_names(stem_of(declared[part]), None)
            save_file(_converted(found, part, draft), draft / part / name, {"format": "pt"})
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**read_json(file), **fields}, indent=1), encoding="utf-8")


def _converted(found: SingleFile, part: str, folder: Path) -> dict[str, Tensor]:
    """A part's tensors by diffusers' names, each in the file's own dtype.

    Raises:
        ConfigError: the file lacks a tensor, or has one that the part's architecture does not.
    """
    names = [name for name in found.held[part] if not DROPPED.match(name)]
    config = read_json(folder / part / "config.json")
    try:
        if found.path.suffix.lower() == gguf_file.ENDING:
            state = gguf_tensors(found.path, names)
        else:
            with safe_open(found.path, "pt") as tensors:
                state = {name: tensors.get_tensor(name) for name in names}
        held = sum(tensor.numel() for tensor in state.values())
        converted = _converter(found.kind, part)(state, config)
    except Exception as error:
        # Whatever the libraries make of somebody else's file.
        raise ConfigError(
            f"replica.model {found.path}: its {part} cannot be converted ({type(error).__name__}: {first_line(error)}): it is "
            f"of another architecture than {found.kind.title}, or cut; give a folder in diffusers' layout"
        ) from error
    lacking = next((name for name, tensor in converted.items() if tensor is None), None)
    if lacking is not None:
        raise ConfigError(f"replica.model {found.path}: its {part} lacks what becomes {lacking}; download it again")
    left = held - sum(tensor.numel() for tensor in converted.values())
    if left:
        raise ConfigError(
            f"replica.model {found.path}: {part}: {abs(left)} of {held} numbers have no place in a {found.kind.title}; give a "
            "folder in diffusers' layout"
        )
    return {name: tensor.contiguous() for name, tensor in converted.items()}


Converter = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]


def _converter(kind: Kind, part: str) -> Converter:
    """diffusers' own, for one part; takes the file's tensors of it and its config."""
    from diffusers.loaders import single_file_utils as own

    prefix = (kind.prefixes or {}).get(part, "")
    if part == "unet":
        return own.convert_ldm_unet_checkpoint  # type: ignore[no-any-return]
    if part == "vae":
        return own.convert_ldm_vae_checkpoint  # type: ignore[no-any-return]
    if part == "transformer":
        of_flow = own.convert_sd3_transformer_checkpoint_to_diffusers
        convert = of_flow if kind is SD3 else own.convert_flux_transformer_checkpoint_to_diffusers
        return lambda state, config: convert(state)
    if prefix.endswith(".transformer."):
        return lambda state, config: _within_text_model(own.convert_ldm_clip_checkpoint(state))
    return lambda state, config: own.convert_open_clip_checkpoint(
        SimpleNamespace(config=SimpleNamespace(**config)), state, prefix=prefix
    )


def _within_text_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some files name the tensors of CLIP's text encoder without the part that holds them."""
    return {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in state.items()}


def _digest(file: Path) -> str:
    """sha256 of a file; kept beside the copies until the file changes, by what the file system says of it.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        facts = file.stat()
        state = [str(file.resolve()), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        note = cache_folder() / f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]}.sha256"
        kept = note.read_text() if note.is_file() else ""
        if re.fullmatch(r"[0-9a-f]{64}", kept):
            return kept
        digest = file_digest(file)
        if facts.st_size >= NOTED_BYTES:
            note.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=note.parent)
            with os.fdopen(handle, "w") as stream:
                stream.write(digest)
            os.replace(draft, note)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({first_line(error)})") from error
    return digest
