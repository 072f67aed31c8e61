"""How a person names the model that is asked about: the options that commands which ask one share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option(help="The model in question: a folder, hub id, .safetensors file, or `testbed`.")]
Adapters = Annotated[list[str] | None, typer.Option(help="A LoRA or the like on the model; may be repeated.")]
Reference = Annotated[
    str | None,
    typer.Option(help="To hold scores against: `base`, or a model close to this one that was not trained on the works."),
]
HostedService = Annotated[
    str | None, typer.Option(help="A hosted service instead of a model; its fields go with --set replica.FIELD=VALUE.")
]
JobFile = Annotated[
    Path | None, typer.Option("--job", metavar="JOB.yaml", help="A job to take model and attacks from, for whatever else.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the job, such as replica.dtype=bfloat16.")]
ClipOption = Annotated[str | None, typer.Option(help="CLIP, as in a job, for attacks that compare by it.")]
Forwards = Annotated[int | None, typer.Option(min=1, help="Forwards per image of the attacks that are chosen; 20 by default.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Pack and check, and print what it costs; score nothing.")]
