"""Per-sample gradients of the test bed's UNet: torch.func in one pass, a loop of backward passes, and Opacus if installed.

    pip install opacus   # optional
    python benchmarks/per_sample_gradients.py [--batch 16] [--rounds 5]

All give the same norms, which is checked; the ratios are medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.testbed import PIPELINE
from raymia.trial.gradients import parameter_gradients

T = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    replica = load_replica(str(PIPELINE), LoadOptions(resolution_px=64))
    torch.manual_seed(0)
    z, noise = torch.randn(options.batch, 4, 8, 8), torch.randn(options.batch, 4, 8, 8)
    states = replica.text(["a picture"] * options.batch)

    def functional() -> Tensor:
        gradients, _ = parameter_gradients(replica, z, T, states, noise)
        return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0).sqrt()

    def loop() -> Tensor:
        unet = replica._denoiser.requires_grad_(True)
        norms = []
        for i in range(len(z)):
            error = (noise[i : i + 1] - replica.predicted_noise(z[i : i + 1], T, states[i : i + 1])).square().sum()
            gradients = torch.autograd.grad(error, list(unet.parameters()))
            norms.append(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())
        unet.requires_grad_(False)
        return torch.stack(norms)

    ways: dict[str, Callable[[], Tensor]] = {"torch.func": functional, "loop": loop}
    try:
        from opacus import GradSampleModule

        # A copy of its own, as its hooks stay in the module's way; it captures in training mode only (no layer differs).
        # Its convolution rule is wrong for channels-last weights, hence the plain layout.
        unet = copy.deepcopy(replica._denoiser).to(memory_format=torch.contiguous_format).requires_grad_(True).train()
        wrapped = GradSampleModule(unet, loss_reduction="sum", strict=False)

        def opacus() -> Tensor:
            wrapped.zero_grad()
            (noise - wrapped(z.clone().requires_grad_(True), T, states).sample).square().sum().backward()
            return torch.stack([p.grad_sample.flatten(1).square().sum(1) for p in wrapped.parameters()]).sum(0).sqrt()

        ways["opacus"] = opacus
    except ImportError:
        print("opacus is not installed: left out")
    expected = loop()
    for name, way in ways.items():
        print(f"{name}: largest relative difference from the loop {float(((way() - expected) / expected).abs().max()):.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["loop"], times, strict=True))
        print(f"{name}: {statistics.median(times) * 1000:.0f} ms per batch of {options.batch}; loop / {name} = {ratio:.2f}")


if __name__ == "__main__":
    main()
