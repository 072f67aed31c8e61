"""A second scan with another checkpoint takes latents from the cache, and finds what it would have found without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from raymia.attacks.base import ATTACKS
from raymia.data.shapes import Shapes, square
from raymia.errors import ConfigError, RaymiaError
from raymia.replica.folder import find_pipeline
from raymia.run.ledger import Ledger
from raymia.scan.cost import works_on_images
from raymia.scan.decoding import _decode_batch
from raymia.scan.latents import IMAGE_SCHEMA, LatentCache
from raymia.scan.plan import make_plan
from tests.conftest import good_members, image_bytes
from tests.scan.test_pipeline import make_job, scan

Write = Callable[[str, list[tuple[str, bytes]]], Path]
ON_LATENTS = {"loss": {"timesteps": [100, 300], "draws": 1}, "pia": {}}


@pytest.fixture
def other_unet(tiny: Path, tmp_path: Path) -> Path:
    return edited(tiny, tmp_path / "other", "unet", "conv_out.bias")


def edited(model: Path, target: Path, part: str, tensor: str) -> Path:
    shutil.copytree(model, target)
    file = target / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, tensor: weights[tensor] + 0.1}, file)
    return target


def evaluations(run: str) -> dict[str, int]:
    return dict(Ledger(run).require_scan().evaluations)


def files(run: str) -> dict[str, bytes]:
    root = Path(run)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


@pytest.mark.usefixtures("bare_loop")
def test_another_checkpoint_neither_encodes_nor_decodes_and_scores_the_same(
    tmp_path: Path, write_tar: Write, tiny: Path, other_unet: Path
) -> None:
    broken = [("00000020.jpg", image_bytes(1)[:400]), ("00000020.txt", b"cut"), ("00000021.txt", b"no image")]
    write_tar("m0.tar", [*good_members(20), *broken])
    write_tar("n0.tar", good_members(9, start=100))
    cache = str(tmp_path / "latents")
    # The first scan has attacks that work on images, and keeps latents all the same.
    scan(make_job(tmp_path, tiny, "first", attacks={**ON_LATENTS, "random": {}}, latent_cache=cache))
    assert evaluations(str(tmp_path / "first"))["encodes"] == 29
    second = make_job(tmp_path, other_unet, "second", attacks=ON_LATENTS, latent_cache=cache)
    plain = make_job(tmp_path, other_unet, "plain", attacks=ON_LATENTS)
    counts, _ = scan(second)
    scan(plain)
    assert (counts.read, counts.scored, counts.by_reason) == (31, 29, {"corrupt_image": 1, "no_image": 1})
    assert evaluations(second.run)["encodes"] == 0
    assert files(second.run) == files(plain.run)


def test_where_attacks_work_on_images_they_are_decoded_and_latents_taken_all_the_same(tmp_path: Path) -> None:
    cache = LatentCache(str(tmp_path), "key", 4, 8, square(16), images_too=True)
    texts = {"index": 0, "caption": "", "prompt": None, "flags": None, "reason": None, "detail": None}
    batch = [{"key": str(seed), "image": image_bytes(seed), **texts} for seed in range(2)]
    batch.append({"key": "cut", **texts, "image": image_bytes(1)[:400]})
    pixels, latents, samples = _decode_batch(batch, square(16), 10**6, cache)
    assert latents is None
    known = np.random.default_rng(0).normal(size=(2, 4, 2, 2)).astype(np.float32)
    cache.store([{**dict.fromkeys(IMAGE_SCHEMA.names), **sample} for sample in samples], known)
    again = _decode_batch(batch, square(16), 10**6, cache)
    assert np.array_equal(np.stack(again[0]), np.stack(pixels))  # type: ignore[arg-type]
    assert np.array_equal(np.stack(again[1]), known)  # type: ignore[arg-type]
    assert again[2] == samples
    without = _decode_batch(batch, square(16), 10**6, replace(cache, images_too=False))
    assert without[0] is None
    assert np.array_equal(np.stack(without[1]), known)  # type: ignore[arg-type]
    assert [{**dict.fromkeys(IMAGE_SCHEMA.names[:-1]), **sample} for sample in samples] == [
        {**dict.fromkeys(IMAGE_SCHEMA.names[:-1]), **sample} for sample in without[2]
    ]


def test_the_cache_is_of_one_autoencoder_and_size_whatever_the_unet(tmp_path: Path, write_tar: Write, tiny: Path) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    other_unet = edited(tiny, tmp_path / "unet", "unet", "conv_out.bias")
    other_vae = edited(tiny, tmp_path / "vae", "vae", "quant_conv.bias")
    saved_anew = shutil.copytree(tiny, tmp_path / "anew")
    file = saved_anew / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, metadata={"saved": "again"})
    config = saved_anew / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_diffusers_version": "0.0"}))

    def key(model: Path, side: int = 64) -> str:
        replica = {"model": str(model), "dtype": "float32", "resolution_px": side}
        changes = {"attacks": ON_LATENTS, "latent_cache": str(tmp_path / "c"), "replica": replica}
        cache = make_plan(make_job(tmp_path, model, "run", **changes)).latent_cache
        assert cache is not None
        assert cache.shape_of({"height": 40, "width": 90}) == (4, side // 8, side // 8)
        return cache.key

    assert key(tiny) == key(other_unet) == key(saved_anew)
    assert len({key(tiny), key(other_vae), key(tiny, 32)}) == 3


def test_attacks_that_work_on_images_are_found_by_running_them(tiny: Path) -> None:
    schedule = find_pipeline(str(tiny), with_weights=False).schedule()
    found = {name for name, kind in ATTACKS.all().items() if works_on_images(kind(), schedule)}
    assert found >= {"autoencoder", "generation", "pfami", "pokemon", "random", "rediffuse"}
    assert not found & {"clid", "denoising", "gradient", "loss", "noise_optimisation", "pia", "secmi", "sima"}


def test_what_was_stored_is_what_is_loaded(tmp_path: Path) -> None:
    cache = LatentCache(str(tmp_path), "key", 2, 8, Shapes(((8, 24), (24, 8))), images_too=False)
    facts = {"width": 90, "height": 40, "jpeg_bytes": 7, "entropy": 0.1, "colourfulness": 0.2, "edge_density": 0.3}
    good = {"image_sha256": "a" * 64, **facts, "stage": None, "reason": None, "detail": None}
    bad = {"image_sha256": "b" * 64, **dict.fromkeys(facts), "stage": "decode", "reason": "corrupt_image", "detail": "cut"}
    latents = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3) / 7
    cache.store([bad, good], latents)
    found = cache.load(["b" * 64, "a" * 64])
    assert found is not None
    assert found.facts == [bad, good]
    assert found.images() == ["a" * 64]
    assert np.array_equal(found.latents, latents)
    assert cache.load(["a" * 64, "b" * 64]) is None
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RaymiaError, match=r"damaged.*delete it"):
        cache.load(["b" * 64, "a" * 64])


def test_a_cache_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path, write_tar: Write, tiny: Path) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=9))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"latent_cache .*file/latents"):
        scan(make_job(tmp_path, tiny, "run", attacks=ON_LATENTS, latent_cache=str(tmp_path / "file" / "latents")))
