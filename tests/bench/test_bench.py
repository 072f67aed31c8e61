from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from raymia.bench import input as bench_input
from raymia.bench import shapes
from raymia.bench.attacks import bench_attacks, load_samples
from raymia.bench.model import UNET_VARIANTS, bench_model
from raymia.bench.scorer import bench_scorer
from raymia.bench.shapes import SHAPES, count_flops
from raymia.cli import app
from raymia.data.images import MAX_PIXELS, decode_image
from raymia.errors import ConfigError


def test_the_shapes_are_those_of_the_published_models() -> None:
    with torch.device("meta"):
        parameters = {name: sum(p.numel() for p in shape.new_unet().parameters()) for name, shape in SHAPES.items()}
        vae = sum(p.numel() for p in SHAPES["sd15"].new_vae().parameters())
    # The numbers of parameters of the models' published weights.
    assert parameters == {"sd15": 859_520_964, "sd21": 865_910_724, "sdxl": 2_567_463_684}
    assert vae == 83_653_863


def test_operations_are_counted_exactly() -> None:
    flops = count_flops(SHAPES["sd15"], 512)
    assert [round(count / 1e9) for count in (flops.unet, flops.encode, flops.decode)] == [803, 1117, 2515]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of Stable Diffusion's wiring that are timed in a moment."""
    unet = {
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "block_out_channels": (32,) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }
    vae = {**shapes.VAE_OPTIONS, "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 8}
    monkeypatch.setitem(SHAPES, "small", shapes.ModelShape(unet, 16, 64, 1))
    monkeypatch.setattr(shapes, "VAE_OPTIONS", vae)


@pytest.mark.usefixtures("small")
def test_a_model_is_timed_against_the_peak_of_its_device() -> None:
    found = bench_model("small", "float32, channels-last", device="cpu", seconds=0.1, with_vae=False)
    assert found.denoiser_batch == 128
    assert found.unet_tflops == pytest.approx(found.forwards_s * found.unet_gflop / 1e3)
    assert found.share_of_peak > 0  # below 1 where nothing else wants the processor
    assert found.encodes_s is None
    with pytest.raises(ConfigError, match="sd14"):
        bench_model("sd14")
    assert all("dtype" in options for options in UNET_VARIANTS.values())


@pytest.mark.usefixtures("small")
def test_a_scorer_is_timed_against_the_same_evaluations_in_a_bare_loop() -> None:
    found = bench_scorer(["loss", "secmi"], "small", 4, dtype="bfloat16", device="cpu", seconds=0.1)
    assert (found.forwards, found.float32_forwards, found.encodes, found.denoiser_batch) == (37, 6, 1, 128)
    assert found.forwards_s == pytest.approx(37 * found.images_s)
    assert found.ratio == pytest.approx(found.images_s / found.bare_images_s)
    with pytest.raises(ConfigError, match="replicas can be sd15, sd21, small"):
        bench_scorer(family="sdxl")


def test_the_measured_ways_from_file_to_pixels_give_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_input, "SIDES_PX", (200, 200))  # of a square both cut the same square
    (file,) = bench_input.photographs(1, seed=3)
    difference = np.abs(bench_input.pillow(file, 128).astype(int) - decode_image(file, 128, MAX_PIXELS).pixels)
    assert difference.max() <= 2
    assert difference.mean() < 0.02


def test_attacks_are_measured_by_what_they_find_and_cost() -> None:
    (pia,) = bench_attacks(["pia"], 64)
    assert (pia.forwards, pia.encodes, pia.samples) == (4, 1, 64)
    assert pia.auc > 0.7
    assert load_samples(10)[3].tolist() == [True, False] * 5
    with pytest.raises(ConfigError, match="did you mean `pia`"):
        list(bench_attacks(["pya"], 64))
    with pytest.raises(ConfigError, match="expected an even number up to 1024"):
        load_samples(1026)


def test_the_input_path_is_measured_from_the_command_line() -> None:
    done = CliRunner().invoke(app, ["bench", "input", "--resolution", "64", "--rounds", "1", "--json"])
    (found,) = json.loads(done.stdout)
    assert found["bytes_per_image"] == 3 * 64 * 64
    assert found["decode_images_s"] > 0
