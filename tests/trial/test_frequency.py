"""The filter of frequencies."""

from __future__ import annotations

import pytest
import torch

from raymia.trial.frequency import lowpass


@pytest.mark.parametrize("side", [8, 9, 64])
def test_a_constant_passes_and_what_changes_from_place_to_place_is_scaled(side: int) -> None:
    constant = torch.full((1, 2, side, side), 3.0)
    assert torch.allclose(lowpass(constant, 0.16), constant, atol=1e-5)
    signs = (-1.0) ** torch.arange(side)
    fast = (signs[:, None] * signs[None, :])[None, None]
    if side % 2 == 0:
        assert torch.allclose(lowpass(fast, 0.16), 0.2 * fast, atol=1e-5)


def test_all_frequencies_kept_change_nothing_and_the_filter_is_linear() -> None:
    one, two = torch.randn(2, 3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lowpass(one, 1.0), one, atol=1e-5)
    assert torch.allclose(lowpass(one - two, 0.3), lowpass(one, 0.3) - lowpass(two, 0.3), atol=1e-5)
