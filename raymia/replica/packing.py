"""Latents as transformers take them that see squares of 2 x 2 as one token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 2
"""Of the squares, in latents."""


def packed(latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch tokens token_width"]:
    """A token for each square, row by row: of each channel the four latents of the square."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * SIDE**2)


def unpacked(tokens: Float[Tensor, "batch tokens token_width"], height: int, width: int) -> Float[Tensor, "batch c h w"]:
    """The latents of `packed`, which are `height` by `width`."""
    batch, _, packed_channels = tokens.shape
    squares = tokens.reshape(batch, height // SIDE, width // SIDE, packed_channels // SIDE**2, SIDE, SIDE)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, packed_channels // SIDE**2, height, width)


def positions(height: int, width: int, device: torch.device) -> Float[Tensor, "tokens 3"]:
    """Of each square of latents that are `height` by `width`: 0, its row and its column; made on a device."""
    rows, columns = (torch.arange(side // SIDE, device=device) for side in (height, width))
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
