"""What the package ships: the audit set, and models with known members."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from transformers import CLIPTokenizer

import raymia
from raymia.attacks.loss import Loss
from raymia.data.images import decode_image
from raymia.data.tar import RawSample, read_shard
from raymia.evaluation.intervals import noise_floor
from raymia.evaluation.roc import exact_roc
from raymia.features.clip import Clip
from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.replica.protocol import Replica
from raymia.testbed import ASSETS, CLIP, FLOW, LORA, PIPELINE
from raymia.testbed.architecture import (
    new_flow_text_encoders,
    new_text_encoder,
    new_tokenizer,
    new_transformer,
    new_unet,
    save_flow_pipeline,
    save_pipeline,
)
from raymia.trial.trial import Trial

PER_SPLIT = 256


@pytest.fixture(scope="module")
def samples() -> dict[str, list[RawSample]]:
    found = {}
    for split in ("members", "non_members"):
        shards = sorted((ASSETS / "shards").glob(f"{split}-*.tar"))
        found[split] = [item for shard in shards for item in read_shard(str(shard)) if isinstance(item, RawSample)]
    return found


def pixels(samples: list[RawSample]) -> torch.Tensor:
    arrays = [decode_image(sample.image or b"", 64, 10**6).pixels for sample in samples]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_auc(replica: Replica, samples: dict[str, list[RawSample]]) -> float:
    scores = []
    for group in samples.values():
        part = group[:PER_SPLIT]
        trial = Trial(replica, pixels(part), [s.caption for s in part], [s.key for s in part], seed=0)
        # Each timestep under noise of its own: how long one draw happens to be tells members from others a little.
        scores.append(Loss(timesteps=(100, 300, 500), draws=1, noise="own").score(trial)["loss"].numpy())
    return exact_roc(np.concatenate(scores).astype(float), np.arange(2 * PER_SPLIT) < PER_SPLIT).auc


def test_the_package_ships_less_than_24_megabytes() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 24e6


def test_no_sample_is_damaged_and_no_concept_stands_twice(samples: dict[str, list[RawSample]]) -> None:
    everything = [sample for group in samples.values() for sample in group]
    assert len(everything) == 1024
    assert all(sample.fault is None and sample.caption for sample in everything)
    assert len({sample.key for sample in everything}) == 1024


def test_provenance_names_every_picture_once_and_auxiliary_pictures_are_others(samples: dict[str, list[RawSample]]) -> None:
    with gzip.open(ASSETS / "provenance.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["sha256"] for row in rows}) == len(rows)
    for split, group in samples.items():
        assert {row["key"] for row in rows if row["use"] == split} == {sample.key for sample in group}


def save_untrained(folder: Path, pipeline: Path) -> None:
    """The shipped model before training: all that is trained on the members is new."""
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae", torch_dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    torch.manual_seed(0)
    if pipeline == FLOW:
        save_flow_pipeline(folder, vae, new_transformer(), new_flow_text_encoders(tokenizer), tokenizer)
    else:
        save_pipeline(folder, vae, new_unet(), new_text_encoder(tokenizer), tokenizer)


@pytest.mark.parametrize("pipeline", [PIPELINE, FLOW], ids=["pipeline", "flow"])
def test_the_trained_model_tells_members_and_the_untrained_one_does_not(
    samples: dict[str, list[RawSample]], pipeline: Path, tmp_path: Path
) -> None:
    options = LoadOptions(dtype="float32", device="cpu", resolution_px=64)
    assert 0.75 < loss_auc(load_replica(str(pipeline), options), samples) < 0.95
    save_untrained(tmp_path / "p", pipeline)
    low, high = noise_floor(PER_SPLIT, PER_SPLIT).auc
    assert low < loss_auc(load_replica(str(tmp_path / "p"), options), samples) < high


def test_the_lora_is_told_by_what_is_above_its_base_and_one_of_chance_is_not(
    samples: dict[str, list[RawSample]], tmp_path: Path
) -> None:
    taken = samples["non_members"]
    pictures = [Image.open(io.BytesIO(sample.image or b"")) for sample in taken]
    captions = [sample.caption for sample in taken]
    learned = np.arange(len(pictures)) < len(pictures) // 2
    tensors = load_file(LORA)
    chance = torch.Generator().manual_seed(0)
    untrained = tmp_path / "chance.safetensors"
    save_file({name: 0.05 * torch.randn(one.shape, generator=chance) for name, one in tensors.items()}, untrained)

    def aucs(adapter: str) -> dict[str, float]:
        attacks = {"loss": {"timesteps": [300, 500], "draws": 1}}
        options = {"adapters": [{"path": adapter}], "reference": "base", "resolution_px": 64, "progress": False}
        rows = raymia.score(pictures, captions, model="testbed", attacks=attacks, batch_size=64, **options)
        return {name: float(roc_auc_score(learned, rows[name])) for name in ("loss", "calibrated.loss")}

    found = aucs("testbed-lora")
    low, high = noise_floor(len(pictures) // 2, len(pictures) // 2).auc
    assert found["calibrated.loss"] > found["loss"] + 0.05 > high + 0.05
    assert all(low < auc < high for auc in aucs(str(untrained)).values())


def test_both_models_share_autoencoder_and_words() -> None:
    for part in ("vae/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/tokenizer.json"):
        assert (FLOW / part).read_bytes() == (PIPELINE / part).read_bytes()


def test_the_training_log_says_how_each_model_came_about() -> None:
    head, *entries = [json.loads(line) for line in (ASSETS / "training.jsonl").read_text().splitlines()]
    assert {"seed", "steps", "versions"} <= head.keys()
    assert {entry["model"] for entry in entries} == {"clip", "vae", "unet", "transformer", "lora", "memorised"}


def test_clip_knows_an_image_again_among_others(samples: dict[str, list[RawSample]]) -> None:
    clip = Clip(str(CLIP), torch.device("cpu"))
    images = pixels(samples["non_members"][:64])
    embeddings = clip.embed_images(images)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(64), atol=1e-5)
    noisy = clip.embed_images(
        (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    )
    assert (embeddings @ noisy.T).argmax(1).eq(torch.arange(64)).float().mean() > 0.9


def test_the_cut_tokenizer_splits_captions_as_the_full_one_does() -> None:
    import open_clip

    captions = ["a red cow, farm animal", "einstein's café 1234"]
    cut, full = new_tokenizer(captions), open_clip.SimpleTokenizer()
    for caption in captions:
        assert cut.tokenize(caption) == [full.decoder[index] for index in full.encode(caption)]
