"""Rebuilds the test bed: images from Debian packages, a random split, shards, and the models trained on them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import open_clip
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from raymia.curation.writing import write_tar
from raymia.data.images import decode_image
from raymia.data.tar import RawSample, read_shard
from raymia.features.clip import Clip
from raymia.replica.families import FAMILIES
from raymia.replica.parts import Parts
from raymia.testbed import architecture, openclipart, training

SEED = 20_260
SAMPLES_PER_SPLIT = 512
SAMPLES_PER_SHARD = 128
LONGER_SIDE_PX = 112
"""Pictures are reduced to this longer side before they are packed."""
TRAINING_STEPS = {"vae": 1200, "clip": 700, "unet": 1100, "transformer": 1000, "lora": 600, "memorised": 500}
RANK, RATE = 16, 2e-3
"""Of the LoRAs."""
REPEATED, TIMES, BESIDE = 6, 40, 10
"""Pictures that a LoRA is to have by heart, how often each stands in what it is trained on, and pictures for a floor."""
GIVEN_AWAY = ("flag", "symbol")
"""Words in captions of pictures that anybody draws from their words."""
TUNED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""Layers of the UNet that it adapts."""


@dataclass(frozen=True)
class AuditSample:
    """A picture of the audit set as it stands in a shard."""

    split: str
    shard: str
    key: str
    clipart: openclipart.Clipart
    content: bytes
    """The picture as a JPEG file."""


def build(out: Path, cache: Path, seed: int = SEED) -> None:
    """Make every file of the test bed below `out`.

    Args:
        out: where to write ``shards/``, ``pipeline/``, ``flow/``, ``lora/``, ``clip/``, ``manifest.yaml``,
            ``provenance.csv.gz`` and ``training.jsonl``.
        cache: where the Debian packages are downloaded and unpacked.
        seed: seed of the split, the initial weights and the order of training.

    Raises:
        ConfigError: the packages cannot be had.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = training.TrainingLog(out / "training.jsonl")
    cliparts = openclipart.load(openclipart.unpack(cache), LONGER_SIDE_PX)
    samples, auxiliary = split(cliparts, seed)
    write_shards(out / "shards", samples)
    write_manifest(out / "manifest.yaml")
    write_provenance(out / "provenance.csv.gz", samples, auxiliary)
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__}
    versions |= {"open_clip": open_clip.__version__, "python": platform.python_version(), "machine": platform.machine()}
    log({"seed": seed, "audit": len(samples), "auxiliary": len(auxiliary), "steps": TRAINING_STEPS, "versions": versions})
    torch.manual_seed(seed)
    images = _pixels([_jpeg(clipart.image) for clipart in auxiliary])
    captions = [clipart.caption for clipart in auxiliary]
    build_clip(out / "clip", images, captions, seed, log)
    build_pipeline(out / "pipeline", images, captions, samples, seed, log)
    build_flow(out, seed, log)
    build_lora(out, seed, log)
    build_memorised(out, seed, log)


def split(cliparts: list[openclipart.Clipart], seed: int) -> tuple[list[AuditSample], list[openclipart.Clipart]]:
    """Draw the audit set, one picture per concept, and its membership at random; the rest is auxiliary.

    No concept appears twice in the audit set, so twins and series never straddle members and non-members.

    Returns:
        The audit set, members first, and the auxiliary pictures.
    """
    random = np.random.default_rng(seed)
    concepts: dict[str, list[int]] = {}
    for index, clipart in enumerate(cliparts):
        concepts.setdefault(clipart.concept, []).append(index)
    names = sorted(concepts)
    drawn = [names[i] for i in random.permutation(len(names))[: 2 * SAMPLES_PER_SPLIT]]
    chosen = [int(random.choice(concepts[name])) for name in drawn]
    samples = []
    for position, index in enumerate(chosen):
        name, number = ("members", position) if position < SAMPLES_PER_SPLIT else ("non_members", position - SAMPLES_PER_SPLIT)
        content = _jpeg(cliparts[index].image)
        shard = f"{name}-{number // SAMPLES_PER_SHARD:04d}.tar"
        samples.append(AuditSample(name, shard, cliparts[index].sha256[:12], cliparts[index], content))
    rest = sorted(set(range(len(cliparts))) - set(chosen))
    return samples, [cliparts[index] for index in rest]


def write_shards(folder: Path, samples: list[AuditSample]) -> None:
    """Write the audit set as WebDataset tars: JPEG, caption and metadata per sample, the same bytes every time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for shard in sorted({sample.shard for sample in samples}):
        with (folder / shard).open("wb") as stream:
            write_tar(stream, ((sample.key, _members(sample)) for sample in samples if sample.shard == shard))


def _members(sample: AuditSample) -> dict[str, bytes]:
    clipart = sample.clipart
    facts = {
        "caption": clipart.caption,
        "source": f"openclipart-png {openclipart.RELEASE}: {clipart.path}",
        "title": clipart.title,
        "concept": clipart.concept,
        "original_width": clipart.original_size[0],
        "original_height": clipart.original_size[1],
        "original_sha256": clipart.sha256,
    }
    return {"jpg": sample.content, "txt": clipart.caption.encode(), "json": json.dumps(facts).encode()}


def write_manifest(path: Path) -> None:
    """Write the manifest that stands beside the shards."""
    samples, last = SAMPLES_PER_SPLIT, f"{SAMPLES_PER_SPLIT // SAMPLES_PER_SHARD - 1:04d}"
    path.write_text(
        "name: testbed\n"
        f"licence: {openclipart.LICENCE}\n"
        "provenance: >-\n"
        f"  Pictures and titles of Debian's openclipart-png and openclipart-svg {openclipart.RELEASE}; one picture per\n"
        "  concept, members drawn at random; the miniature Stable Diffusion beside them was trained on the members.\n"
        'valid_for_models: ["testbed", "testbed-*"]\n'
        "splits:\n"
        f'  - {{name: members, member: true, shards: ["shards/members-{{0000..{last}}}.tar"], samples: {samples}}}\n'
        f'  - {{name: non_members, member: false, shards: ["shards/non_members-{{0000..{last}}}.tar"], samples: {samples}}}\n'
    )


def write_provenance(path: Path, samples: list[AuditSample], auxiliary: list[openclipart.Clipart]) -> None:
    """Write one row of gzipped CSV per picture: where it came from and what it was used for."""
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        stream = io.TextIOWrapper(packed, newline="", write_through=True)
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["use", "shard", "key", "source_path", "sha256", "title", "licence"])
        for sample in samples:
            row = [sample.split, sample.shard, sample.key, sample.clipart.path, sample.clipart.sha256, sample.clipart.title]
            table.writerow([*row, "public domain"])
        for clipart in auxiliary:
            table.writerow(["auxiliary", "", "", clipart.path, clipart.sha256, clipart.title, "public domain"])


def build_clip(folder: Path, images: Tensor, captions: list[str], seed: int, log: training.Log) -> None:
    """Train the miniature open_clip model on the auxiliary pairs and write it in open_clip's local-dir layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(architecture.CLIP_CONFIG, indent=2) + "\n")
    model = open_clip.CLIP(**architecture.CLIP_CONFIG["model_cfg"])
    tokens = open_clip.SimpleTokenizer(context_length=architecture.CLIP_CONFIG["model_cfg"]["text_cfg"]["context_length"])(
        captions
    )
    training.train_clip(model, images, tokens, TRAINING_STEPS["clip"], seed, log)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def build_pipeline(
    folder: Path, images: Tensor, captions: list[str], samples: list[AuditSample], seed: int, log: training.Log
) -> None:
    """Train the autoencoder on the auxiliary images and the UNet on the members; write the pipeline."""
    vae = architecture.new_vae()
    training.train_vae(vae, images, TRAINING_STEPS["vae"], seed, log)
    # What is trained is what is shipped: the UNet sees the latents of the half-precision autoencoder.
    vae.half().float()
    sides = {}
    for name in ("members", "non_members"):
        of_split = [sample for sample in samples if sample.split == name]
        latents = training.encode(vae, _pixels([sample.content for sample in of_split]))
        sides[name] = training.Captioned(latents, [sample.clipart.caption for sample in of_split])
    tokenizer = architecture.new_tokenizer(captions + sides["members"].captions + sides["non_members"].captions)
    torch.manual_seed(seed)
    unet, text_encoder = architecture.new_unet(), architecture.new_text_encoder(tokenizer)
    denoiser = training.NoiseUNet(unet, text_encoder, tokenizer, architecture.new_scheduler().alphas_cumprod)
    training.train_denoiser(denoiser, sides["members"], sides["non_members"], TRAINING_STEPS["unet"], seed, log)
    architecture.save_pipeline(folder, vae, unet, text_encoder, tokenizer)


def build_flow(out: Path, seed: int, log: training.Log) -> None:
    """Train Stable Diffusion 3's transformer on the members, under the autoencoder and tokenizer of the other pipeline.

    Args:
        out: with ``shards/`` and ``pipeline/`` of a test bed; the pipeline ``flow/`` is written beside them.
        seed: seed of the initial weights and of the order of training.
        log: takes an entry every 100 steps.
    """
    vae = AutoencoderKL.from_pretrained(out / "pipeline" / "vae", torch_dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(out / "pipeline" / "tokenizer")
    members, non_members = (
        _captioned(vae, sorted((out / "shards").glob(f"{name}-*.tar"))) for name in ("members", "non_members")
    )
    torch.manual_seed(seed)
    transformer, encoders = architecture.new_transformer(), architecture.new_flow_text_encoders(tokenizer)
    denoiser = training.FlowTransformer(transformer, encoders, tokenizer)
    training.train_denoiser(denoiser, members, non_members, TRAINING_STEPS["transformer"], seed, log)
    architecture.save_flow_pipeline(out / "flow", vae, transformer, encoders, tokenizer)
    # As it stands in the other pipeline: what was read names the folder that it was read from.
    shutil.rmtree(out / "flow" / "vae")
    shutil.copytree(out / "pipeline" / "vae", out / "flow" / "vae")


def build_lora(out: Path, seed: int, log: training.Log) -> None:
    """Train a LoRA on the first half of the non-members' shards, whose order is random, under the UNet that never saw them.

    Args:
        out: with ``shards/`` and ``pipeline/`` of a test bed; ``lora/`` is written beside them.
        seed: seed of the initial weights and of the order of training.
        log: takes an entry every 100 steps.
    """
    parts = Parts(out / "pipeline", FAMILIES.get("stable_diffusion").parts)
    vae, unet, text_encoder = (parts.model(part, torch.float32) for part in ("vae", "unet", "text_encoder"))
    shards = sorted((out / "shards").glob("non_members-*.tar"))
    half = len(shards) // 2
    learned, held_back = _captioned(vae, shards[:half]), _captioned(vae, shards[half:])
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(TUNED)))
    denoiser = training.TunedUNet(unet, text_encoder, parts.tokenizer(), architecture.new_scheduler().alphas_cumprod)
    training.train_denoiser(denoiser, learned, held_back, TRAINING_STEPS["lora"], seed, log, RATE)
    save_lora(unet, out / "lora" / "testbed_lora.safetensors")


def build_memorised(out: Path, seed: int, log: training.Log) -> None:
    """Train a LoRA on a shard that its base never saw, in which a few pictures stand many times, until it has them by heart.

    Those are the pictures that the autoencoder gives back best, by CLIP, of those that words do not give away: no flags and no
    symbols. The next best are among the others, which stand there once.

    Args:
        out: with ``shards/``, ``clip/`` and ``pipeline/`` of a test bed; the LoRA is written into ``lora/``, and
            ``memorised_manifest.yaml`` and ``memorised.csv``, which says of what, beside it.
        seed: seed of the initial weights and of the order of training.
        log: takes an entry every 100 steps.
    """
    parts = Parts(out / "pipeline", FAMILIES.get("stable_diffusion").parts)
    vae, unet, text_encoder = (parts.model(part, torch.float32) for part in ("vae", "unet", "text_encoder"))
    shards = sorted((out / "shards").glob("non_members-*.tar"))
    shard, others = shards[len(shards) // 2], shards[len(shards) // 2 + 1 :]
    samples = [item for item in read_shard(str(shard)) if isinstance(item, RawSample)]
    known, held_back = _captioned(vae, [shard]), _captioned(vae, others)
    ranked = _best_given_back(vae, Clip(str(out / "clip"), torch.device("cpu")), samples, known.latents)
    repeated, once = ranked[:REPEATED], ranked[REPEATED : 2 * REPEATED]
    beside = ranked[2 * REPEATED : 2 * REPEATED + BESIDE]
    order = [place for place in range(len(samples)) for _ in range(TIMES if place in repeated else 1)]
    learned = training.Captioned(known.latents[order], [known.captions[place] for place in order])
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(TUNED)))
    denoiser = training.RepeatedUNet(unet, text_encoder, parts.tokenizer(), architecture.new_scheduler().alphas_cumprod)
    training.train_denoiser(denoiser, learned, held_back, TRAINING_STEPS["memorised"], seed, log, RATE)
    save_lora(unet, out / "lora" / "testbed_memorised.safetensors")
    keys = {"repeated": repeated, "once": once, "beside": beside}
    write_memorised(out, shard, {split: [samples[place].key for place in places] for split, places in keys.items()})


def _best_given_back(vae: AutoencoderKL, clip: Clip, samples: list[RawSample], latents: Tensor) -> list[int]:
    """Numbers of the pictures that words do not give away, those first that are most alike to what their latents decode to."""
    images = _pixels([sample.image or b"" for sample in samples])
    with torch.no_grad():
        decoded = vae.decode(latents / float(vae.config.scaling_factor)).sample.clamp(-1, 1)
    alike = (clip.embed_images(images) * clip.embed_images(decoded)).sum(1)
    order = [int(place) for place in alike.argsort(descending=True)]
    return [place for place in order if not any(word in samples[place].caption for word in GIVEN_AWAY)]


def write_memorised(out: Path, shard: Path, keys: dict[str, list[str]]) -> None:
    """Write the manifest of the pictures that the LoRA has by heart, as many of those that it met once, and more for a floor.

    Args:
        out: with ``shards/``.
        shard: of the pictures.
        keys: of the pictures, by split.
    """
    rows = [f"{split},{shard.stem},{key}\n" for split, part in keys.items() for key in part]
    (out / "memorised.csv").write_text("split,shard,key\n" + "".join(rows))
    (out / "memorised_manifest.yaml").write_text(
        "name: testbed-memorised\n"
        f"licence: {openclipart.LICENCE}\n"
        "provenance: >-\n"
        "  Pictures of the test bed's non-members, which its model never saw. The LoRA was trained on their whole shard, in\n"
        f"  which those of the split `repeated` stood {TIMES} times, and all others once.\n"
        'valid_for_models: ["testbed with testbed-memorised"]\n'
        "selection: memorised.csv\n"
        "splits:\n"
        + "".join(
            f'  - {{name: {split}, member: true, shards: ["shards/{shard.name}"], samples: {len(part)}}}\n'
            for split, part in keys.items()
        )
    )


def save_lora(unet: UNet2DConditionModel, file: Path) -> None:
    """Save a UNet's adapter in half precision, as peft and diffusers name its tensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(unet)
    save_file({f"unet.{name}": tensor.half().contiguous() for name, tensor in state.items()}, file)


def _captioned(vae: AutoencoderKL, shards: list[Path]) -> training.Captioned:
    """Latents and captions of shards."""
    found = [item for shard in shards for item in read_shard(str(shard)) if isinstance(item, RawSample)]
    latents = training.encode(vae, _pixels([item.image or b"" for item in found]))
    return training.Captioned(latents, [item.caption for item in found])


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _pixels(contents: list[bytes]) -> Tensor:
    """(n, 3, 64, 64) in [-1, 1], decoded exactly as a scan decodes them."""
    side = architecture.RESOLUTION_PX
    arrays = np.stack([decode_image(content, side, openclipart.MAX_SOURCE_PIXELS).pixels for content in contents])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1.0
