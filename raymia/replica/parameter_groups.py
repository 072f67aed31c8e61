"""A denoiser's parameters by part and kind of layer, alike for every depth."""

from __future__ import annotations

UNET_GROUPS = (
    "conv_in",
    "time_embedding",
    "down.resnet",
    "down.attention",
    "down.resample",
    "mid.resnet",
    "mid.attention",
    "up.resnet",
    "up.attention",
    "up.resample",
    "conv_out",
)
"""Parts of diffusers' conditional UNet: its way down, middle and way up, each by kind of layer, and what surrounds them."""

_ENDS = {"conv_in": "conv_in", "time_embedding": "time_embedding", "conv_norm_out": "conv_out", "conv_out": "conv_out"}
_PARTS = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
_KINDS = {"resnets": "resnet", "attentions": "attention", "downsamplers": "resample", "upsamplers": "resample"}


def unet_group(parameter: str) -> str | None:
    """The group of a parameter by its name in diffusers; none where the UNet has parts that others lack."""
    names = parameter.split(".")
    if names[0] in _ENDS:
        return _ENDS[names[0]]
    kind = next((_KINDS[name] for name in names if name in _KINDS), None)
    return f"{_PARTS[names[0]]}.{kind}" if names[0] in _PARTS and kind else None


BLOCKS = ("blocks.attention", "blocks.feed_forward", "blocks.modulation")
SINGLE_BLOCKS = ("single_blocks.attention", "single_blocks.feed_forward", "single_blocks.modulation")
TRANSFORMER_GROUPS = ("embedding.image", "embedding.time", "embedding.condition", *BLOCKS, "out")
"""Parts of diffusers' transformers: what embeds their inputs, their blocks by kind of layer, and the last layers. Modulation is
what time and pooled condition scale and shift a block by. Some have single blocks, too, behind those that see image and text
apart."""

_TOP = {
    "embedding.image": ("pos_embed", "x_embedder", "img_in", "patch_embed", "all_x_embedder", "x_pad_token"),
    "embedding.time": (
        "time_text_embed",
        "time_guidance_embed",
        "time_embed",
        "t_embedder",
        "adaln_single",
        "distilled_guidance_layer",
    ),
    "embedding.condition": (
        "context_embedder",
        "txt_in",
        "txt_norm",
        "cap_embedder",
        "caption_projection",
        "caption_norm",
        "cap_pad_token",
    ),
    "blocks.modulation": ("double_stream_modulation_img", "double_stream_modulation_txt"),
    "single_blocks.modulation": ("single_stream_modulation",),
    "out": ("norm_out", "proj_out", "proj_out_1", "proj_out_2", "all_final_layer", "scale_shift_table"),
}
_GROUP_OF_TOP = {module: group for group, modules in _TOP.items() for module in modules}
_BLOCK_LISTS = {
    "transformer_blocks": "blocks",
    "layers": "blocks",
    "noise_refiner": "blocks",
    "context_refiner": "blocks",
    "single_transformer_blocks": "single_blocks",
}
_KINDS_OF_BLOCKS = {
    "attention": ("attn", "attention"),
    "feed_forward": ("ff", "feed_forward", "img_mlp", "txt_mlp", "proj_"),
    "modulation": ("norm", "adaLN_modulation", "img_mod", "txt_mod", "scale_shift_table"),
}
"""Beginnings of the names of a block's own modules."""


def transformer_group(parameter: str) -> str | None:
    """The group of a parameter of a transformer by its name in diffusers; none where it has parts that others lack."""
    names = [name for name in parameter.split(".") if not name.isdigit()]
    if names[0] in _BLOCK_LISTS:
        kinds = [kind for kind, begins in _KINDS_OF_BLOCKS.items() if names[1].startswith(begins)]
        return f"{_BLOCK_LISTS[names[0]]}.{kinds[0]}" if kinds else None
    if "text_embedder" in names:
        return "embedding.condition"
    return _GROUP_OF_TOP.get(names[0])
