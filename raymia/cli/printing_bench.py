"""Measurements of speed, as tables on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymia.cli.console import Terminal, plain_table

if TYPE_CHECKING:
    from raymia.bench.attacks import AttackBench
    from raymia.bench.input import InputBench
    from raymia.bench.model import ModelBench
    from raymia.bench.pipeline import PipelineBench
    from raymia.bench.scorer import ScorerBench
    from raymia.scan.leaderboard import Leaderboard


def print_models(out: Terminal, measured: Sequence[ModelBench]) -> None:
    """Print the device, then a line per variant."""
    first = measured[0]
    out.say(
        f"{first.family} at {first.resolution_px} px on {first.device}, torch {first.torch_version}, {first.threads} threads; "
        f"{first.unet_gflop:,.0f} GFLOP per forward",
    )
    table = plain_table("UNet", ("variant",), ("batch", "forwards/s", "TFLOP/s", "peak", "share", "first call s", "GiB"))
    for bench in measured:
        table.add_row(
            bench.variant,
            str(bench.denoiser_batch),
            f"{bench.forwards_s:.3g}",
            f"{bench.unet_tflops:.3g}",
            f"{bench.peak_tflops:.3g}",
            f"{bench.share_of_peak:.0%}",
            "" if bench.compile_s is None else f"{bench.compile_s:.0f}",
            "" if bench.peak_memory_gib is None else f"{bench.peak_memory_gib:.1f}",
        )
    out.print(table)
    for bench in measured:
        if bench.encodes_s is not None and bench.decodes_s is not None:
            rates = f"{bench.encodes_s:.3g} encodes/s, {bench.decodes_s:.3g} decodes/s"
            out.say(f"Autoencoder in float32, {bench.vae_batch} images a call: {rates}")


def print_input(out: Terminal, measured: Sequence[InputBench]) -> None:
    """Print the rates of both ways and their ratio."""
    (bench,) = measured
    table = plain_table("Images per second and core", ("",), (f"{bench.resolution_px} px",))
    table.add_row("Pillow, nothing else", f"{bench.pillow_images_s:.1f}")
    table.add_row("raymia: checks, pixels, digest", f"{bench.decode_images_s:.1f}")
    table.add_row("raymia: image statistics", f"{bench.statistics_images_s:.1f}")
    out.print(table)
    out.say(
        f"{bench.files} JPEGs of {bench.mean_kib:.0f} KiB; ratio {bench.ratio:.2f}; {bench.bytes_per_image:,} bytes per image "
        "through the object store",
    )


def print_attack_bench(out: Terminal, measured: Sequence[AttackBench]) -> None:
    """Print a line per attack."""
    title = f"{measured[0].samples} images of the test bed"
    table = plain_table(title, ("attack", "access"), ("AUC", "forwards", "encodes", "images/s"))
    for bench in measured:
        numbers = (f"{bench.auc:.3f}", f"{bench.forwards:g}", f"{bench.encodes:g}", f"{bench.images_s:.1f}")
        table.add_row(bench.attack, bench.access, *numbers)
    out.print(table)


def print_leaderboard(out: Terminal, made: Sequence[Leaderboard]) -> None:
    """Print a line per setting, with what it reached on each model."""
    (table,) = made
    models = [table.chosen_on, *table.reported_on]
    title = f"AUC, and TPR at 1 % FPR; chosen on {table.chosen_on}"
    shown = plain_table(title, ("signal", "parameters"), ("forwards", *models))
    for entry in table.entries:
        figures = (entry.figures[model] for model in models)
        reached = (f"{each.auc.value:.3f} {each.tpr.value:.3f}" for each in figures)
        shown.add_row(entry.signal, json.dumps(entry.parameters) if entry.parameters else "", str(entry.passes), *reached)
    out.print(shown)
    out.say(", ".join(f"{count:,} images of {model}" for model, count in table.samples.items()))


def print_scorer(out: Terminal, measured: Sequence[ScorerBench]) -> None:
    """Print the scorer against the bare loop, and what the replica chose."""
    (bench,) = measured
    out.say(
        f"{bench.family} at {bench.resolution_px} px in {bench.dtype}{', compiled' if bench.compiled else ''} "
        f"on {bench.device}, torch {bench.torch_version}, {bench.threads} threads",
    )
    table = plain_table(f"{', '.join(bench.attacks)}, batches of {bench.batch_size}", ("",), ("images/s", "forwards/s"))
    table.add_row("scorer", f"{bench.images_s:.3g}", f"{bench.forwards_s:.3g}")
    table.add_row("bare loop", f"{bench.bare_images_s:.3g}", f"{bench.forwards * bench.bare_images_s:.3g}")
    out.print(table)
    memory = "" if bench.peak_memory_gib is None else f", {bench.peak_memory_gib:.1f} GiB at the peak"
    out.say(
        f"ratio {bench.ratio:.3f}; {bench.forwards:g} forwards ({bench.float32_forwards:g} of them in float32) and "
        f"{bench.encodes:g} encodes an image; calls of {bench.denoiser_batch} images in the UNet, {bench.vae_batch} in the "
        f"autoencoder; {bench.load_s:.0f} s to load, {bench.first_batch_s:.0f} s for the first batch{memory}",
    )


def print_pipeline(out: Terminal, measured: Sequence[PipelineBench]) -> None:
    """Print a line per scan."""
    table = plain_table("Scan against bare loop", (), ("batch s", "replicas", "bare images/s", "scan images/s", "ratio"))
    for bench in measured:
        rates = (f"{bench.bare_images_s:.2f}", f"{bench.scan_images_s:.2f}", f"{bench.ratio:.3f}")
        table.add_row(f"{bench.batch_s:g}", str(bench.replicas), *rates)
    out.print(table)
