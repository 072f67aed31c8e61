"""What the JSON documents of a pipeline folder may say: an allow-list, since what is ignored is not scored as it was trained.

A part's own fields are understood by its class, whatever their values: the installed library builds it. A field that the class
does not know is ignored by the library, so that only those stand here that change nothing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymia.errors import ConfigError, suggest
from raymia.replica.documents import read_json
from raymia.replica.parts import class_of, is_processor, library_of, name_of

NOTES = ("_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_attn_implementation_autoset")
"""Fields of any document that say where it comes from."""
EMA = ("decay", "inv_gamma", "min_decay", "min_value", "optimization_step", "power", "update_after_step", "use_ema_warmup")
"""Fields that diffusers' averaging of weights leaves in a config; the weights are the average."""
OF_TRAINING = (
    "dropout",
    "gradient_checkpointing",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "problem_type",
    "dtype",
)
"""Fields of transformers' configs that say how weights were made or stored."""
OF_GENERATION = {
    "T5EncoderModel": (
        "decoder_start_token_id",
        "output_past",
        "tie_word_embeddings",
        "task_specific_params",
        "n_positions",
        "num_decoder_layers",
        "use_cache",
    ),
    "Gemma2Model": ("cache_implementation", "hidden_act"),
}
"""Fields by class that are of the decoder which it was cut off, of writing texts, and former names that a family looks at."""
HEADED = {"Qwen3Model": ("Qwen3ForCausalLM",)}
"""What `architectures` may say, by class: the same model below a head that writes texts."""
TEXT_CONFIG = "text_config"
"""Where a class that sees images, too, describes what sees texts; no score depends on the rest."""
OF_IMAGES = ("image_token_id", "video_token_id", "vision_token_id", "vision_start_token_id", "vision_end_token_id")
"""Fields of such configs that say where images stand in a text."""
ROTARY = ("rope_theta", "rope_scaling")
"""Fields that classes with `rope_parameters` make those of, where there are none."""
UNUSED = {"QwenImageTransformer2DModel": ("pooled_projection_dim",)}
"""Fields by class that published configs hold and no layer is made of."""
FORMER = {"PixArtTransformer2DModel": "Transformer2DModel", "DiTTransformer2DModel": "Transformer2DModel"}
"""Class that diffusers split later, by one of those that it became: configs of before are loaded as that."""
OF_FORMER: dict[str, tuple[Any, ...]] = {
    "double_self_attention": (None, False),
    "only_cross_attention": (None, False),
    "use_linear_projection": (None, False),
    "num_vector_embeds": (None,),
}
"""Fields of that class that its parts do not have, with what they are where they ask for nothing."""
BESIDE = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that see images which were made, or are given as a prompt: scores do not depend on them."""
FLAGS = ("requires_safety_checker",)
"""Fields of ``model_index.json`` that say nothing of the model."""
MAX_LAYERS, MAX_LISTED = 1000, 100
"""Of what one config describes: layers by one number, and blocks by one list."""
FATAL = {
    "auto_map": "names code of its own, which is never run",
    "quantization_config": "quantised weights are not read; give them in float16, bfloat16 or float32, "
    "and set replica.weights: int8 to round them when they are loaded",
}
TOKENIZER_FILE = "tokenizer_config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "config.json")
"""Documents beside it that a processor of texts and images is loaded from, where they are there."""
AUDIO_FIELD, AUDIO_FILE = "audio_tokenizer", "audio_tokenizer_config.json"
"""Where a processor may name a model that it would load from elsewhere."""


def check_index(index: Mapping[str, Any], declared: Mapping[str, str], fields: tuple[str, ...], source: Path) -> None:
    """Refuse a ``model_index.json`` that names a part or class which the family does not have, or lacks one that it has.

    Args:
        index: its contents.
        declared: class of each part, as ``library.Class``.
        fields: further ones that the family reads.
        source: the file, named in errors.

    Raises:
        ConfigError: names the part or field, and what was expected.
    """
    for part, path in declared.items():
        found = index.get(part)
        if not isinstance(found, list) or len(found) != 2 or found[0] is None:
            raise ConfigError(f"{source}: no {part}; expected {[library_of(path), name_of(path)]}")
        if found[0] != library_of(path) or str(found[1]).removesuffix("Fast") not in _names(path):
            raise ConfigError(
                f"{source}: {part} is {found}; expected {[library_of(path), name_of(path)]}, other classes are not supported"
            )
    for name, value in index.items():
        if name in declared or name in (*BESIDE, *FLAGS, *fields, *NOTES, "scheduler") or value in (None, [None, None]):
            continue
        what = "a further part" if isinstance(value, list) else "a field"
        raise ConfigError(f"{source}: has {name} {value!r}, {what} that is not supported in a {index.get('_class_name')}")


def check_part(folder: Path, part: str, path: str) -> None:
    """Refuse the config of a part that is of another class, or says what its class does not know.

    Args:
        folder: of the pipeline.
        part: its folder's name.
        path: its class, as ``library.Class``.

    Raises:
        ConfigError: names the file and field.
    """
    file = folder / part / "config.json"
    config = read_json(file)
    for field, reason in FATAL.items():
        if config.get(field) is not None:
            raise ConfigError(f"{file}: {field}: {reason}")
    (_check_transformers if library_of(path) == "transformers" else _check_diffusers)(config, path, file)
    for field, value in (item for one in (config, *_within(config)) for item in one.items()):
        many = isinstance(value, int) and ("layers" in field or field == "depth") and value > MAX_LAYERS
        if many or (isinstance(value, list) and len(value) > MAX_LISTED):
            raise ConfigError(f"{file}: {field}: describes more than any model has; expected at most {MAX_LAYERS} layers")


def _names(path: str) -> tuple[str, ...]:
    """What configs may call a class that is given as ``library.Class``."""
    return tuple(filter(None, (name_of(path), FORMER.get(name_of(path)))))


def _check_diffusers(config: Mapping[str, Any], path: str, file: Path) -> None:
    own = config.get("_class_name", name_of(path))
    if own not in _names(path):
        raise ConfigError(f"{file}: _class_name is {own!r}; expected {name_of(path)}")
    if own != name_of(path):
        config = {name: value for name, value in config.items() if value not in OF_FORMER.get(name, ())}
    _check_known(config, set(defaults(path)), (*EMA, *UNUSED.get(name_of(path), ())), path, file)


def _check_transformers(config: Mapping[str, Any], path: str, file: Path) -> None:
    kind = class_of(path).config_class
    architectures, taken = config.get("architectures"), {name_of(path), *HEADED.get(name_of(path), ())}
    if architectures not in (None, []) and not (isinstance(architectures, list) and taken & set(map(str, architectures))):
        raise ConfigError(f"{file}: architectures are {architectures!r}; expected {name_of(path)}")
    harmless = (*OF_TRAINING, *OF_GENERATION.get(name_of(path), ()))
    if TEXT_CONFIG in getattr(kind, "sub_configs", {}):
        harmless = (*harmless, *OF_IMAGES, *_check_text(config, kind, path, file))
    _check_fields(config, kind, harmless, path, file)


def _check_text(config: Mapping[str, Any], kind: Any, path: str, file: Path) -> list[str]:
    """Refuse what stands in or beside the config of what sees texts and is not read; return what stands beside it.

    Former versions wrote the fields of the text beside those of the whole. Where there is no `text_config` they are read by
    classes that have one class of configs for the text, and by no others.
    """
    described, text = kind.sub_configs[TEXT_CONFIG], _class_of_text(kind)
    of_text = {*_parameters(text), *ROTARY} - _parameters(kind).keys()
    beside = {field: value for field, value in config.items() if field in of_text}
    nested = config.get(TEXT_CONFIG)
    if nested is None:
        return list(beside) if described is text else []
    if not isinstance(nested, dict):
        raise ConfigError(f"{file}: {TEXT_CONFIG} is {nested!r}; expected the fields of a {text.__name__}")
    _check_fields(nested, text, (*OF_TRAINING, *OF_IMAGES, "tie_word_embeddings"), path, f"{file}: {TEXT_CONFIG}")
    for field, value in beside.items():
        if _built(text, nested) != _built(text, {**nested, field: value}):
            raise ConfigError(
                f"{file}: {field} is {value!r} and {TEXT_CONFIG} says {nested.get(field)!r}, which alone is read; remove one"
            )
    return list(beside)


def _class_of_text(kind: Any) -> Any:
    """The class of the config of what sees texts; where its `model_type` would say which, the one that it has by default."""
    described = kind.sub_configs[TEXT_CONFIG]
    return described if hasattr(described, "model_type") else type(kind().get_text_config())


def _built(kind: Any, fields: Mapping[str, Any]) -> Any:
    """What a class of configs makes of fields; the fields themselves where it can make nothing of them."""
    try:
        return vars(kind(**copy.deepcopy(dict(fields))))
    except Exception:  # noqa: BLE001 - whatever the library makes of the fields is said where the model is built from them
        return dict(fields)


def _check_fields(config: Mapping[str, Any], kind: Any, harmless: tuple[str, ...], path: str, source: object) -> None:
    """Refuse fields of a config that its class ignores, and what changes how any class of transformers is called."""
    if config.get("model_type", kind.model_type) != kind.model_type:
        raise ConfigError(f"{source}: model_type is {config['model_type']!r}; expected {kind.model_type} for a {name_of(path)}")
    known = _parameters(kind)
    general = _parameters(kind.__mro__[1])
    for field in general.keys() & config.keys() - {*OF_TRAINING, "architectures"}:
        if config[field] not in (general[field], known[field]):
            raise ConfigError(f"{source}: {field} is {config[field]!r}; only {general[field]!r} is supported, remove it")
    if "rope_parameters" in known and config.get("rope_parameters") is None:
        harmless = (*harmless, *ROTARY)
    further = {field: value for field, value in config.items() if not _follows(field, value, kind, config, known)}
    _check_known(further, {*known, "architectures", "model_type"}, harmless, path, source)


def _follows(field: str, value: Any, kind: Any, config: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a field is one that its class works out from the others, and says what it works out."""
    if field in known or field.startswith("_"):
        return False
    own = _built(kind, {name: config[name] for name in config.keys() & known.keys()})
    return field in own and bool(own[field] == value)


def _check_known(config: Mapping[str, Any], known: set[str], harmless: tuple[str, ...], path: str, source: object) -> None:
    for field, value in config.items():
        if value is not None and field not in known and field not in harmless and field not in NOTES:
            raise ConfigError(
                f"{source}: {field} is {value!r}, which a {name_of(path)} of the installed {library_of(path)} does not know"
                f"{suggest(field, sorted(known)) if not field.startswith('_') else ''}; remove it if it changes nothing"
            )


def _parameters(kind: Any) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def defaults(path: str) -> dict[str, Any]:
    """The fields of a class's config with the values that it takes where the config is silent.

    Args:
        path: the class, as ``library.Class``.
    """
    kind = class_of(path)
    return _parameters(getattr(kind, "config_class", None) or kind)


def read_config(folder: Path, part: str, path: str) -> dict[str, Any]:
    """The config of a part, with its class's own values where it is silent.

    Args:
        folder: of the pipeline.
        part: its folder's name.
        path: its class, as ``library.Class``.

    Raises:
        ConfigError: it cannot be read.
    """
    return {**defaults(path), **read_json(folder / part / "config.json")}


def read_text_config(folder: Path, part: str, path: str) -> dict[str, Any]:
    """The config of what sees texts in a part that sees images, too, as its class makes it.

    Args:
        folder: of the pipeline.
        part: its folder's name.
        path: its class, as ``library.Class``.

    Raises:
        ConfigError: it cannot be read.
    """
    kind = class_of(path).config_class
    made: dict[str, Any] = kind(**read_json(folder / part / "config.json")).get_text_config().to_dict()
    return made


def check_tokenizer_config(folder: Path, part: str, path: str) -> None:
    """Refuse a tokenizer of another class, one that would run code of its own, or one whose texts have no length.

    Of a processor that has a tokenizer, its own class is asked for: the library makes its tokenizer of the files alone.

    Raises:
        ConfigError: names the file and field.
    """
    place, processor = folder / part, is_processor(path)
    files, field = [place / TOKENIZER_FILE], "tokenizer_class"
    if processor:
        files, field = [*files, *(place / name for name in PROCESSOR_FILES if (place / name).exists())], "processor_class"
    for file in files:
        config = read_json(file)
        if any(one.get("auto_map") is not None for one in (config, *_within(config))):
            raise ConfigError(f"{file}: auto_map: {FATAL['auto_map']}")
        own = str(config.get(field) or name_of(path))
        if own.removesuffix("Fast") != name_of(path):
            raise ConfigError(f"{file}: {field} is {own!r}; expected {name_of(path)}")
        if processor and (config.get(AUDIO_FIELD) is not None or (place / AUDIO_FILE).exists()):
            raise ConfigError(f"{place}: {AUDIO_FIELD}: names a model elsewhere, which is not loaded; remove it")


def _within(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in config.values() if isinstance(one, dict)]
