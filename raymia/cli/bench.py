"""`raymia bench`: how fast this machine is, and what keeps it from being faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel

from raymia.cli.console import Json, Terminal, err, out
from raymia.errors import ConfigError

bench_app = typer.Typer(help="Speed: of the model, the input path, the attacks, the pipeline.", no_args_is_help=True)

DEFAULT_SAMPLES = 256
B = TypeVar("B", bound=BaseModel)
Seconds = Annotated[float, typer.Option(min=0.1, help="How long to run each part for.")]
Resolution = Annotated[int | None, typer.Option(min=8, help="Side of the images in pixels; by default the model's own.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@bench_app.command("model")
def bench_model_command(
    model: Annotated[str, typer.Option(help="Shapes: sd15, sd21 or sdxl; the weights are random.")] = "sd15",
    variant: Annotated[str | None, typer.Option(help="How the UNet is run; by default as a scan would.")] = None,
    variants: Annotated[bool, typer.Option("--variants", help="Run every variant, one after the other.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a call of the UNet.")] = None,
    resolution: Resolution = None,
    device: Device = "auto",
    seconds: Seconds = 5.0,
    as_json: Json = False,
) -> None:
    """Forwards, encodes and decodes per second, and the share of the device's peak. No download, no Ray."""
    from raymia.bench.model import bench_model, bench_variants
    from raymia.cli.printing_bench import print_models

    options = {"family": model, "batch": batch, "resolution_px": resolution, "device": device, "seconds": seconds}
    rows = list(bench_variants(**options)) if variants else [bench_model(variant=variant, **options)]  # type: ignore[arg-type]
    _show(rows, print_models, as_json)


@bench_app.command("input")
def bench_input_command(
    resolution: Annotated[int, typer.Option(min=8, help="Side of the result in pixels.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed.")] = 5,
    as_json: Json = False,
) -> None:
    """Images per second and core from JPEG to pixels, against plain Pillow."""
    from raymia.bench.input import bench_input
    from raymia.cli.printing_bench import print_input

    _show([bench_input(resolution, rounds)], print_input, as_json)


@bench_app.command("attacks")
def bench_attacks_command(
    attack: Annotated[list[str] | None, typer.Argument(help="By default all that need no model beside.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=10, help="Images, half of them members; by default 256, with --models all there are.")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, such as testbed,testbed-flow,testbed-lora, or job files: try settings of the "
            "attacks on each, choose on one and report on the others."
        ),
    ] = None,
    choose_on: Annotated[str | None, typer.Option(help="The one of --models to choose on; by default the first.")] = None,
    report_on: Annotated[str | None, typer.Option(help="Those to report on; by default all others.")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="With --models: JSON file to write the leaderboard to.")] = None,
    as_json: Json = False,
) -> None:
    """AUC, evaluations and images per second of each attack on the test bed; with --models, a leaderboard over several."""
    if models is None:
        if choose_on or report_on or output:
            raise ConfigError("--choose-on, --report-on and --out go with --models")
        from raymia.bench.attacks import bench_attacks
        from raymia.cli.printing_bench import print_attack_bench

        _show(list(bench_attacks(attack or (), samples or DEFAULT_SAMPLES)), print_attack_bench, as_json)
        return
    from raymia.bench.leaderboard import make_leaderboard
    from raymia.cli.printing_bench import print_leaderboard

    names = models.split(",")
    reported = () if report_on is None else report_on.split(",")
    made = make_leaderboard(names, choose_on or names[0], reported, attack or (), samples, err.say)
    if output is not None:
        output.write_text(made.model_dump_json(indent=1) + "\n")
    _show([made], print_leaderboard, as_json)


@bench_app.command("scorer")
def bench_scorer_command(
    attack: Annotated[list[str] | None, typer.Argument(help="By default loss, pia and secmi.")] = None,
    model: Annotated[str, typer.Option(help="Shapes: sd15 or sd21; the weights are random.")] = "sd15",
    batch: Annotated[int, typer.Option(min=1, help="Images in front of the replica at once.")] = 16,
    dtype: Annotated[str, typer.Option(help="Type of the UNet: auto, float32, bfloat16 or float16.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the UNet.")] = False,
    resolution: Resolution = None,
    device: Device = "auto",
    seconds: Seconds = 10.0,
    as_json: Json = False,
) -> None:
    """Images per second of attacks over a model of full size, against a bare loop. No download, no Ray."""
    from raymia.bench.scorer import DEFAULT_ATTACKS, bench_scorer
    from raymia.cli.printing_bench import print_scorer

    measured = bench_scorer(attack or DEFAULT_ATTACKS, model, batch, dtype, compiled, resolution, device, seconds)
    _show([measured], print_scorer, as_json)


@bench_app.command("pipeline")
def bench_pipeline_command(
    batch_seconds: Annotated[list[float] | None, typer.Option(help="Duration of a batch; several may be given.")] = None,
    replicas: Annotated[list[int] | None, typer.Option(help="Replicas of a scan; several may be given.")] = None,
    samples: Annotated[int, typer.Option(min=32, help="Images for each replica.")] = 192,
    as_json: Json = False,
) -> None:
    """Images per second of a scan over those of a bare loop with the same, sleeping, scorer."""
    from raymia.bench.pipeline import bench_pipeline
    from raymia.cli.printing_bench import print_pipeline

    rows = list(bench_pipeline(batch_seconds or (0.25, 0.5, 1.0), replicas or (1,), samples))
    _show(rows, print_pipeline, as_json)


def _show(measured: Sequence[B], print_them: Callable[[Terminal, Sequence[B]], None], as_json: bool) -> None:
    if as_json:
        out.show_json([measurement.model_dump() for measurement in measured])
    else:
        print_them(out, measured)
