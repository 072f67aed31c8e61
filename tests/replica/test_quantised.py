"""A denoiser whose blocks have weights of a byte each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline
from raymia.replica.memory import GIB, predicted_memory
from raymia.replica.quantised import require_quantisable
from tests.replica.test_every_family import cases, loaded

ROUNDING = {"int8": 0.03, "float8": 0.12}
"""Share of its norm by which a miniature's prediction moves: its weights are random, and its few layers average nothing out."""
TENSORS = {"int8": "Int8Tensor", "float8": "Float8Tensor"}


@pytest.mark.parametrize("name", ["stable_diffusion", "flux"])
def test_a_family_predicts_nearly_the_same_from_rounded_weights(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    whole = loaded(found, case, dtype="bfloat16")
    z = torch.randn(2, *whole.latent_shape(case.side_px, case.side_px), generator=torch.Generator().manual_seed(1))
    told = whole.text(case.prompts[:2])
    expected = whole.predicted_noise(z, 300, told)
    kept = {}
    for weights, rounding in ROUNDING.items():
        rounded = loaded(found, case, dtype="bfloat16", weights=weights)
        moved = (rounded.predicted_noise(z, 300, told) - expected).norm() / expected.norm()
        assert 0 < moved < rounding, weights
        assert {type(one).__name__ for one in rounded.parameters().values()} == {"Parameter", TENSORS[weights]}
        kept[weights] = [one for one in rounded.parameters().values() if type(one).__name__ == TENSORS[weights]]
    before, after = (
        predicted_memory(found, LoadOptions("bfloat16", resolution_px=case.side_px, weights=weights))
        for weights in ("as_saved", "int8")
    )
    assert before is not None
    assert after is not None
    (less,) = [one.weights_gib - two.weights_gib for one, two in zip(before.parts, after.parts, strict=True) if one != two]
    now = sum(one.qdata.nbytes + one.scale.nbytes + one.zero_point.nbytes for one in kept["int8"])
    assert less * GIB == pytest.approx(sum(2 * one.numel() for one in kept["int8"]) - now)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_quantisable("int8")
    monkeypatch.setattr("raymia.replica.quantised.find_spec", lambda name: None)
    require_quantisable("as_saved")
    with pytest.raises(ConfigError, match=r"replica\.weights: float8 needs torchao: pip install 'raymia\[quantised\]'"):
        require_quantisable("float8")
