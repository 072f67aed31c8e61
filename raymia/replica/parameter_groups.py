"""A UNet's parameters by part and kind of layer, alike for every depth of UNet."""

from __future__ import annotations

GROUPS = (
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
