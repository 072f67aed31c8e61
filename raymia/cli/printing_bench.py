"""What people read of measurements on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from raymia.bench.attacks import AttackBench
    from raymia.bench.input import InputBench
    from raymia.bench.model import ModelBench
    from raymia.bench.pipeline import PipelineBench
    from raymia.bench.scorer import ScorerBench


def print_models(out: Console, found: Sequence[ModelBench]) -> None:
    """The device, then a line per variant."""
    first = found[0]
    out.print(
        f"{first.family} at {first.resolution_px} px on {first.device}, torch {first.torch_version}, {first.threads} threads; "
        f"{first.unet_gflop:,.0f} GFLOP per forward",
        markup=False,
        highlight=False,
    )
    table = _table("UNet", ("variant",), ("batch", "forwards/s", "TFLOP/s", "peak", "share", "first call s", "GiB"))
    for one in found:
        table.add_row(
            escape(one.variant),
            str(one.denoiser_batch),
            f"{one.forwards_s:.3g}",
            f"{one.unet_tflops:.3g}",
            f"{one.peak_tflops:.3g}",
            f"{one.share_of_peak:.0%}",
            "" if one.compile_s is None else f"{one.compile_s:.0f}",
            "" if one.peak_memory_gib is None else f"{one.peak_memory_gib:.1f}",
        )
    out.print(table)
    for one in found:
        if one.encodes_s is not None and one.decodes_s is not None:
            rates = f"{one.encodes_s:.3g} encodes/s, {one.decodes_s:.3g} decodes/s"
            out.print(f"Autoencoder in float32, {one.vae_batch} images a call: {rates}", highlight=False)


def print_input(out: Console, measured: Sequence[InputBench]) -> None:
    """Both ways and their ratio."""
    (found,) = measured
    table = _table("Images per second and core", ("",), (f"{found.resolution_px} px",))
    table.add_row("Pillow, nothing else", f"{found.pillow_images_s:.1f}")
    table.add_row("raymia: checks, pixels, digest", f"{found.decode_images_s:.1f}")
    table.add_row("raymia: image statistics", f"{found.statistics_images_s:.1f}")
    out.print(table)
    out.print(
        f"{found.files} JPEGs of {found.mean_kib:.0f} KiB; ratio {found.ratio:.2f}; {found.bytes_per_image:,} bytes per image "
        "through the object store",
        highlight=False,
    )


def print_attack_bench(out: Console, found: Sequence[AttackBench]) -> None:
    """A line per attack."""
    title = f"{found[0].samples} images of the test bed"
    table = _table(title, ("attack", "access"), ("AUC", "forwards", "encodes", "images/s"))
    for one in found:
        numbers = (f"{one.auc:.3f}", f"{one.forwards:g}", f"{one.encodes:g}", f"{one.images_s:.1f}")
        table.add_row(one.attack, one.access, *numbers)
    out.print(table)


def print_scorer(out: Console, measured: Sequence[ScorerBench]) -> None:
    """The scorer against the bare loop, and what the replica chose."""
    (found,) = measured
    out.print(
        f"{found.family} at {found.resolution_px} px in {found.dtype}{', compiled' if found.compiled else ''} "
        f"on {found.device}, torch {found.torch_version}, {found.threads} threads",
        markup=False,
        highlight=False,
    )
    table = _table(f"{', '.join(found.attacks)}, batches of {found.batch_size}", ("",), ("images/s", "forwards/s"))
    table.add_row("scorer", f"{found.images_s:.3g}", f"{found.forwards_s:.3g}")
    table.add_row("bare loop", f"{found.bare_images_s:.3g}", f"{found.forwards * found.bare_images_s:.3g}")
    out.print(table)
    memory = "" if found.peak_memory_gib is None else f", {found.peak_memory_gib:.1f} GiB at the peak"
    out.print(
        f"ratio {found.ratio:.3f}; {found.forwards:g} forwards and {found.encodes:g} encodes an image; calls of "
        f"{found.denoiser_batch} images in the UNet, {found.vae_batch} in the autoencoder; {found.load_s:.0f} s to load, "
        f"{found.first_batch_s:.0f} s for the first batch{memory}",
        highlight=False,
    )


def print_pipeline(out: Console, found: Sequence[PipelineBench]) -> None:
    """A line per scan."""
    table = _table("Scan against bare loop", (), ("batch s", "replicas", "bare images/s", "scan images/s", "ratio"))
    for one in found:
        rates = (f"{one.bare_images_s:.2f}", f"{one.scan_images_s:.2f}", f"{one.ratio:.3f}")
        table.add_row(f"{one.batch_s:g}", str(one.replicas), *rates)
    out.print(table)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in texts:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
