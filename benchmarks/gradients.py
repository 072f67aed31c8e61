"""Memory of `gradient` on Stable Diffusion 1.5's shapes: what a process held at most, beside what is predicted. No download.

    python benchmarks/gradients.py [--resolution 256] [--timesteps 10] [--plain] [--threads 2]

A process of its own makes a pipeline of random weights in place, encodes a text, and takes the gradients of one sample: all
timesteps in one backward pass, and a pass for each of two draws whose directions are compared. On a CPU, in float32. The peak
is the process's resident memory (ru_maxrss); `--plain` keeps all activations, `--predict` runs nothing and predicts alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DDIMScheduler
from torch import nn
from transformers import CLIPTextConfig

from raymia.attacks.gradient import Gradient
from raymia.bench.scorer import BENCH_CAPTION, HEAD_WIDTH
from raymia.bench.shapes import CONTEXT_TOKENS, FACTOR, SHAPES
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.memory import GIB, Backward, predicted_memory
from raymia.replica.parts import Parts
from raymia.replica.schedule import STABLE_DIFFUSION_1
from raymia.replica.stable_diffusion import StableDiffusion
from raymia.replica.tensors import new_part
from raymia.testbed.architecture import new_tokenizer
from raymia.trial.trial import Trial

SHAPE = SHAPES["sd15"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--timesteps", type=int, default=10)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as place:
        write_configs(Path(place))
        folder = PipelineFolder(Path(place), StableDiffusion())
        for dtype in ("float32", "bfloat16"):
            print(f"predicted of a GPU in {dtype}: {predicted(folder, options, dtype)}")
        if options.predict:
            return
        asked = [sys.executable, __file__, *sys.argv[1:], "--measure", place]
        found = json.loads(subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout)  # noqa: S603
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def predicted(folder: PipelineFolder, options: argparse.Namespace, dtype: str) -> str:
    asked = Backward("gradient", "parameters", options.timesteps)
    memory = predicted_memory(folder, LoadOptions(dtype=dtype, resolution_px=options.resolution), backward=[asked])
    if memory is None:
        raise RuntimeError("the memory of this family is not predicted")
    weights = sum(part.weights_gib for part in memory.parts)
    (call,) = (call for call in memory.calls if call.what == "gradient")
    return f"weights {weights:.2f} GiB, gradient {call.gib:.2f} GiB; with all other calls a GPU of {memory.smallest_gpu_gib} GB"


def measured(options: argparse.Namespace) -> dict[str, float]:
    """GiB before and at the peak, and seconds, of this process."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    folder = PipelineFolder(options.measure, StableDiffusion())
    replica = folder.family.load(RandomWeights(folder.path, folder.parts), LoadOptions(resolution_px=options.resolution))
    side = options.resolution // FACTOR
    trial = Trial(replica, None, [BENCH_CAPTION], ["key"], seed=0, latents=torch.randn(1, 4, side, side))
    trial.text()
    before, start = held_gib(), time.perf_counter()
    attack = Gradient(timesteps=tuple(range(50, 50 + 50 * options.timesteps, 50)), direction_draws=2)
    if trial.model.gradients_together(attack.micro_batch):
        raise RuntimeError("the model is so small that its samples are taken together")
    with patch.object(LatentDiffusion, "recomputing", lambda _: nullcontext()) if options.plain else nullcontext():
        scores = attack.score(trial)
    if not all(torch.isfinite(score).all() for score in scores.values()):
        raise RuntimeError("a score is not finite")
    return {"before GiB": before, "peak GiB": held_gib(), "seconds": time.perf_counter() - start}


def held_gib() -> float:
    """The most that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def write_configs(folder: Path) -> None:
    """A pipeline folder without weights."""
    tokenizer = new_tokenizer([BENCH_CAPTION])
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.save_pretrained(folder / "tokenizer")
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    width = SHAPE.text_width
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // HEAD_WIDTH}
    places = {"max_position_embeddings": CONTEXT_TOKENS, "vocab_size": len(tokenizer), "num_hidden_layers": SHAPE.text_layers}
    CLIPTextConfig(**sizes, **places, **ends).save_pretrained(folder / "text_encoder")
    with torch.device("meta"):
        SHAPE.new_unet().save_config(folder / "unet")
        SHAPE.new_vae().save_config(folder / "vae")
    DDIMScheduler(**STABLE_DIFFUSION_1).save_config(folder / "scheduler")
    kinds = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index: dict[str, Any] = {name: ["diffusers", kind] for name, kind in kinds.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))


class RandomWeights(Parts):
    """Parts of random weights, made in place."""

    def model(self, part: str, dtype: torch.dtype) -> nn.Module:
        if part != "unet":
            return new_part(self, part).to(dtype).eval().requires_grad_(False)
        with torch.device("meta"):
            unet = new_part(self, part).to(dtype).eval().requires_grad_(False)
        unet.to_empty(device="cpu")
        for name, parameter in unet.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        self.loaded[part] = unet
        return unet


if __name__ == "__main__":
    main()
