"""Spatial frequencies of latents: what small models add to high ones is noise to an attack."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor

Share = Annotated[float, Gt(0.0), Le(1.0)]
"""Share of the side of the square of frequencies that is kept; 1 keeps all."""
FEWEST = 2
"""Frequencies along a side that are kept at least."""
REST = 0.2
"""What all others are multiplied by."""


def lowpass(x: Float[Tensor, "batch c h w"], keep: float) -> Float[Tensor, "batch c h w"]:
    """Scale all frequencies but the central square of the spectrum by 0.2.

    Source: FreMIA, arXiv 2505.20955.

    Args:
        keep: share of each side of the spectrum that is kept, at least two frequencies.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.float()), dim=(-2, -1))
    gains = [_gains(side, keep, x.device) for side in x.shape[-2:]]
    kept = gains[0][:, None] * gains[1][None, :]
    filtered: Tensor = torch.fft.ifft2(torch.fft.ifftshift(spectrum * (REST + (1 - REST) * kept), dim=(-2, -1))).real
    return filtered


def _gains(side: int, keep: float, device: torch.device) -> Tensor:
    """1 for the frequencies of a side that are kept, of which the constant one stands at side // 2; 0 for others."""
    count = min(side, max(FEWEST, round(keep * side)))
    place = torch.arange(side, device=device) - side // 2
    # As many below the constant as above, and one more below where they are even in number, as the spectrum has.
    return ((place >= -(count // 2)) & (place < count - count // 2)).float()
