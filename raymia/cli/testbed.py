"""`raymia testbed`: the miniature Stable Diffusion and what else is made rather than shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymia.cli.console import out

testbed_app = typer.Typer(help="The miniature Stable Diffusion with known members.", no_args_is_help=True)


@testbed_app.command("lpips")
def testbed_lpips(output: Annotated[Path, typer.Option("--out", help="Safetensors file to write.")]) -> None:
    """Write AlexNet's ImageNet weights for LPIPS from a package of the index, where torchvision's host is out of reach."""
    from raymia.testbed.alexnet import build_trunk

    build_trunk(output)
    out.say(f"{output}: set `lpips: {{trunk: {output}}}` in a job")


@testbed_app.command("build")
def testbed_build(
    output: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    cache: Annotated[Path | None, typer.Option(help="Where Debian packages are unpacked; by default the user's cache.")] = None,
) -> None:
    """Rebuild the test bed from Debian packages: images, split, shards, CLIP, autoencoder and UNet. About 20 minutes."""
    import platformdirs

    from raymia.testbed.build import build

    build(output, cache or platformdirs.user_cache_path("raymia") / "openclipart")


@testbed_app.command("tiny")
def testbed_tiny(output: Annotated[Path, typer.Option("--out", help="Folder to write.")], seed: int = 0) -> None:
    """Write the test bed's pipeline with random weights, in a second."""
    from raymia.testbed.architecture import save_tiny

    save_tiny(output, seed)
    out.say(f"{output}: a Stable Diffusion pipeline with random weights")
