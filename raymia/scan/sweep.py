"""Factor analysis: a grid over fields of a job, as few scans as can be.

Parameters of attacks are variants within one scan, so that all of them share images, latents and noise levels. Any other
field needs a scan of its own for each value.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raymia.config import FREE_TO_CHANGE, Job, parse_job, read_job, set_field
from raymia.documents import DocumentError, parse_yaml
from raymia.errors import ConfigError
from raymia.run.files import ANSWERS
from raymia.run.ledger import Ledger
from raymia.run.sweep import SWEEP_FILE, CellRecord, Factor, SweepRecord, Variant
from raymia.scan.pipeline import run_scan
from raymia.services.hosted import Hosted

MAX_SCANS = 200
MAX_VARIANTS = 1000
"""Of one attack, within a scan."""
LONGEST_SLUG = 120
"""Characters of a slug; file systems take 255 in a name."""


@dataclass(frozen=True)
class Cell:
    """One scan of a sweep."""

    point: dict[str, Any]
    """Value of each factor that the scan stands for; those of attacks' parameters vary within it."""
    variants: dict[str, Variant]
    """By their keys in the job."""
    job: Job


def parse_factor(text: str) -> Factor:
    """A factor from ``FIELD=VALUE,VALUE,...``; a value that is a list stands in brackets.

    Raises:
        ConfigError: it has no field, or its values are not YAML.
    """
    field, equals, values = text.partition("=")
    try:
        parsed = parse_yaml(f"[{values}]")
    except DocumentError as error:
        raise ConfigError(f"--over {text}: {error}") from error
    if not equals or not field or not isinstance(parsed, list) or not parsed:
        raise ConfigError(f"--over {text}: expected FIELD=VALUE,VALUE, such as replica.resolution_px=256,512")
    return Factor(field=field, values=parsed)


def load_sweep(
    path: Path, over: Sequence[str] | None = None, overrides: list[str] | None = None, run: str | None = None
) -> tuple[list[Factor], list[Cell], str]:
    """Read a job file and lay out its grid.

    Args:
        path: job file; its map `sweep`, from field to values, holds the factors where `over` has none.
        over: factors, see `parse_factor`.
        overrides: see `raymia.config.load_job`.
        run: directory of the sweep; by default the job's run directory with ``-sweep``.

    Returns:
        Factors, scans and the directory of the sweep.

    Raises:
        ConfigError: names the file, field or factor.
    """
    content = read_job(path, overrides, None)
    declared = content.pop("sweep", None)
    if over:
        factors = [parse_factor(text) for text in over]
    elif isinstance(declared, dict) and all(isinstance(values, list) and values for values in declared.values()):
        factors = [Factor(field=field, values=values) for field, values in declared.items()]
    elif declared is not None:
        raise ConfigError(f"{path}: `sweep`: expected a map from field to a list of values")
    else:
        factors = []
    if not factors:
        raise ConfigError(f"{path}: nothing to vary; give --over FIELD=VALUE,VALUE or a map `sweep` in the file")
    names = [factor.field for factor in factors]
    twice = [name for name in names if names.count(name) > 1]
    held = [name for name in names if any(f"{name}.".startswith(f"{free}.") for free in (*FREE_TO_CHANGE, "manifest"))]
    repeated = [factor.field for factor in factors if len({_slug({"": value}) for value in factor.values}) < len(factor.values)]
    if repeated:
        raise ConfigError(f"{path}: {repeated[0]} has a value twice; name each value once")
    if twice or held:
        raise ConfigError(f"{path}: {(twice or held)[0]} cannot be varied{' twice' if twice else ': it changes no score'}")
    folder = run or f"{content['run']}-sweep"
    return factors, _cells(content, factors, folder, str(path)), folder


def _cells(content: dict[str, Any], factors: Sequence[Factor], folder: str, source: str) -> list[Cell]:
    within = [factor for factor in factors if factor.attack is not None]
    apart = [factor for factor in factors if factor.attack is None]
    content, variants = _with_variants(content, within, source)
    scans = math.prod(len(factor.values) for factor in apart)
    if scans > MAX_SCANS:
        raise ConfigError(f"{source}: {scans} scans; a sweep has at most {MAX_SCANS}. Vary fewer values at once")
    cells = []
    for values in itertools.product(*(factor.values for factor in apart)):
        point = {factor.field: value for factor, value in zip(apart, values, strict=True)}
        draft = copy.deepcopy(content)
        for field, value in point.items():
            set_field(draft, field, value)
        draft["run"] = f"{folder}/cells/{_slug(point)}"
        cells.append(Cell(point, variants, _with_answers(parse_job(draft, f"{source} at {_slug(point)}"), folder)))
    return cells


def _with_answers(job: Job, folder: str) -> Job:
    """The job with a place for answers that all scans of the grid share: what one was answered no other asks for."""
    service = job.hosted
    if not isinstance(service, Hosted) or service.answers is not None:
        return job
    return job.model_copy(update={"replica": service.model_copy(update={"answers": f"{folder}/{ANSWERS}"})})


def _with_variants(
    content: dict[str, Any], factors: Sequence[Factor], source: str
) -> tuple[dict[str, Any], dict[str, Variant]]:
    """The job with each varied attack replaced by its variants, and what each of them stands for."""
    content = copy.deepcopy(content)
    attacks = content.get("attacks")
    variants: dict[str, Variant] = {}
    if not isinstance(attacks, dict):
        return content, variants
    drafted: dict[str, Any] = {}
    for key, parameters in attacks.items():
        own = [factor for factor in factors if factor.attack == key]
        if not own:
            drafted[key] = parameters
        if math.prod(len(factor.values) for factor in own) > MAX_VARIANTS:
            raise ConfigError(f"{source}: attacks.{key}: more than {MAX_VARIANTS} variants; vary fewer values at once")
        for values in itertools.product(*(factor.values for factor in own)) if own else ():
            changed = copy.deepcopy(parameters) or {}
            point = {}
            for factor, value in zip(own, values, strict=True):
                set_field(changed, factor.field.split(".", 2)[2], value)
                point[factor.field] = value
            short = {field.split(".", 2)[2]: value for field, value in point.items()}
            name = f"{key}{'+' if ':' in key else ':'}{_slug(short)}"
            drafted[name], variants[name] = changed, Variant(attack=key, point=point)
    unknown = [factor.field for factor in factors if factor.attack not in attacks]
    if unknown:
        raise ConfigError(f"{source}: {unknown[0]} cannot be varied: the job has no such attack; it has {', '.join(attacks)}")
    content["attacks"] = drafted
    return content, variants


def _slug(point: dict[str, Any]) -> str:
    """Fit for a folder and for a signal's name, and distinct: ``resolution_px=64``."""
    texts = {field: "-".join(map(str, value)) if isinstance(value, list) else str(value) for field, value in point.items()}
    whole = "+".join(f"{field}={text}" for field, text in texts.items())
    slug = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", whole) or "all"
    return slug if len(slug) <= LONGEST_SLUG else f"{slug[:LONGEST_SLUG]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def run_sweep(factors: Sequence[Factor], cells: Sequence[Cell], folder: str, console: Console) -> SweepRecord:
    """Run every scan that is not finished; the same call resumes.

    Raises:
        ConfigError, RaymiaError: of the scan that failed; those before it are kept.
    """
    relative = [cell.job.run.removeprefix(f"{folder}/") for cell in cells]
    record = SweepRecord(
        factors=list(factors),
        cells=[
            CellRecord(point=cell.point, variants=cell.variants, run=run) for cell, run in zip(cells, relative, strict=True)
        ],
    )
    ledger = Ledger(folder)
    ledger.require_writable()
    ledger.write_text(SWEEP_FILE, record.model_dump_json(indent=2) + "\n")
    for number, cell in enumerate(cells, start=1):
        console.print(f"Scan {number} of {len(cells)}: {cell.job.run}", markup=False, highlight=False)
        run_scan(cell.job, console)
    return record
