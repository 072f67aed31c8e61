"""A fixed random projection that keeps the angles between long vectors, without storing the projection."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

PIECE = 2**22
"""Elements that are hashed at once: a hash takes many times the memory of its element."""
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # the multipliers of SplitMix64, as signed integers


def add_to_sketch(sketch: Float[Tensor, "batch size"], vectors: Float[Tensor, "batch length"], name: str) -> None:
    """Add each element, with a random sign, to a random place of the sketch (count sketch).

    Place and sign are a hash of `name` and the element's index, the same on every device and in every run. Inner products
    of sketches are unbiased for those of the vectors; the error of a cosine is about 1 / sqrt(size).

    Source: Charikar, Chen and Farach-Colton, Finding Frequent Items in Data Streams, 2002.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    for start in range(0, vectors.shape[1], PIECE):
        piece = vectors[:, start : start + PIECE]
        mixed = torch.arange(start, start + piece.shape[1], device=vectors.device) ^ seed
        mixed = (mixed ^ (mixed >> 30)) * _FIRST
        mixed = (mixed ^ (mixed >> 27)) * _SECOND
        mixed = mixed ^ (mixed >> 31)
        places = (mixed >> 1).remainder(sketch.shape[1])
        signs = (mixed & 1) * 2 - 1
        sketch.index_add_(1, places, piece.float() * signs)
