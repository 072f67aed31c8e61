"""Documents of a pipeline that name other classes, run code of their own, or say what nothing here does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raymia.errors import ConfigError
from raymia.replica.documents import MAX_BYTES
from raymia.replica.folder import find_pipeline
from tests.replica.damaged import change, copied, drop


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return copied(tiny, tmp_path / "pipeline")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"unet": ["my_unet", "MyUNet"]},
            r"model_index.json: unet is \['my_unet', 'MyUNet'\]; expected \['diffusers', 'UNet2DC",
        ),
        ({"unet": ["diffusers", "UNet2DModel"]}, "unet is .*UNet2DModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "vae is .*AutoencoderTiny"),
        ({"vae": ["diffusers", "AsymmetricAutoencoderKL"]}, "vae is .*Asymmetric"),
        ({"text_encoder": ["transformers", "BertModel"]}, "text_encoder is .*BertModel"),
        ({"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}, "text_encoder is"),
        ({"text_encoder": [None, None]}, "no text_encoder; expected"),
        ({"text_encoder": None}, "no text_encoder; expected"),
        ({"tokenizer": ["transformers", "BertTokenizer"]}, "tokenizer is .*BertTokenizer"),
        ({"tokenizer": "CLIPTokenizer"}, "no tokenizer; expected"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "has text_encoder_2 .*a further part that is not supported"),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "has controlnet"),
        ({"unconditional_unet": ["diffusers", "UNet2DConditionModel"]}, "has unconditional_unet"),
        ({"is_distilled": True}, "has is_distilled True, a field that is not supported in a StableDiffusionPipeline"),
        ({"force_zeros_for_empty_prompt": True}, "has force_zeros_for_empty_prompt"),
        (
            {"_class_name": "StableDiffusionGLIGENPipeline"},
            "a StableDiffusionGLIGENPipeline is not supported; expected a pipeline of",
        ),
        ({"_class_name": "LatentConsistencyModelPipeline"}, "a LatentConsistencyModelPipeline is not supported"),
        ({"_class_name": ["pipeline", "MyPipeline"]}, "MyPipeline'] is not supported"),
    ],
)
def test_a_pipeline_of_other_parts_is_refused_by_the_part(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder / "model_index.json", **fields)
    with pytest.raises(ConfigError, match=message.replace("MyPipeline']", r"MyPipeline'\]")):
        find_pipeline(str(folder), with_weights=False)


def test_what_no_score_depends_on_is_taken(folder: Path) -> None:
    change(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        requires_safety_checker=None,
        tokenizer=["transformers", "CLIPTokenizerFast"],
        _name_or_path="elsewhere",
    )
    change(
        folder / "unet" / "config.json",
        _name_or_path="x",
        decay=0.9999,
        optimization_step=10,
        new_field=None,
        upcast_attention=None,
    )
    change(folder / "text_encoder" / "config.json", dropout=0.0, gradient_checkpointing=False, torch_dtype="float16")
    find_pipeline(str(folder), with_weights=False)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (
            "unet",
            {"_class_name": "UNet2DModel"},
            "unet/config.json: _class_name is 'UNet2DModel'; expected UNet2DConditionModel",
        ),
        ("unet", {"_class_name": ["my_unet", "MyUNet"]}, "_class_name is .*MyUNet"),
        ("vae", {"_class_name": "FlaxAutoencoderKL"}, "_class_name is 'FlaxAutoencoderKL'"),
        (
            "unet",
            {"auto_map": {"AutoModel": "modeling.MyUNet"}},
            "unet/config.json: auto_map: names code of its own, which is never",
        ),
        ("text_encoder", {"auto_map": {"AutoModel": "modeling.Mine"}}, "text_encoder/config.json: auto_map: names code"),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config: quantised weights are not"),
        ("text_encoder", {"quantization_config": {"load_in_8bit": True}}, "quantization_config: quantised weights"),
        (
            "unet",
            {"zero_centered": True},
            "zero_centered is True, which a UNet2DConditionModel of the installed diffusers does not",
        ),
        ("unet", {"in_chanels": 4}, "in_chanels is 4.* did you mean `in_channels`"),
        ("vae", {"tiling": 2}, "vae/config.json: tiling is 2"),
        ("unet", {"_use_default_values": ["act_fn"]}, "_use_default_values is"),
        (
            "text_encoder",
            {"use_attention_mask": True},
            "use_attention_mask is True, which a CLIPTextModel of the installed transf",
        ),
        ("text_encoder", {"use_attention_mask": False}, "use_attention_mask is False"),
        ("text_encoder", {"architectures": ["BertModel"]}, r"architectures are \['BertModel'\]; expected CLIPTextModel"),
        ("text_encoder", {"architectures": None, "model_type": "bert"}, "model_type is 'bert'; expected clip_text_model"),
        ("text_encoder", {"return_dict": False}, "return_dict is False; only True is supported"),
        ("text_encoder", {"fusion_config": {"patch_embeddings": True}}, "fusion_config is"),
        ("text_encoder", {"transformers_weights": "other.safetensors"}, "transformers_weights is 'other.safetensors'"),
        ("text_encoder", {"_attn_implementation": "kernels-community/flash"}, "_attn_implementation is"),
        ("text_encoder", {"text_config": {"hidden_size": 64}}, "text_config is"),
        ("unet", {"down_block_types": ["DownBlock2D"] * 5000}, "down_block_types: describes more than any model has"),
    ],
)
def test_a_config_that_says_what_its_class_does_not_do_is_refused_by_the_field(
    folder: Path, part: str, fields: dict[str, Any], message: str
) -> None:
    change(folder / part / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(folder), with_weights=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoTokenizer": ["tokenization.Mine", None]}}, "tokenizer_config.json: auto_map: names code"),
        ({"tokenizer_class": "BertTokenizer"}, "tokenizer_class is 'BertTokenizer'; expected CLIPTokenizer"),
        ({"model_max_length": None}, "model_max_length is missing"),
        ({"model_max_length": 78}, "model_max_length is 78; expected the length that texts are padded to, 2 to 32"),
        ({"model_max_length": 0}, "model_max_length is 0"),
        ({"model_max_length": 31.5}, "model_max_length is 31.5"),
    ],
)
def test_a_tokenizer_that_its_encoder_cannot_follow_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    file = change(folder / "tokenizer" / "tokenizer_config.json", **fields)
    if fields == {"model_max_length": None}:
        drop(file, "model_max_length")
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(folder), with_weights=False)


def test_a_document_is_read_within_bounds_and_missing_ones_are_named(folder: Path) -> None:
    file = folder / "vae" / "config.json"
    file.write_bytes(b'{"a": "' + b"x" * MAX_BYTES + b'"}')
    with pytest.raises(ConfigError, match=r"vae/config.json: larger than 16 MiB"):
        find_pipeline(str(folder), with_weights=False)
    file.unlink()
    with pytest.raises(ConfigError, match=r"vae/config.json: missing or unreadable"):
        find_pipeline(str(folder), with_weights=False)
    file.mkdir()
    with pytest.raises(ConfigError, match=r"vae/config.json: missing or unreadable"):
        find_pipeline(str(folder), with_weights=False)
