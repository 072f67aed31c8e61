"""`raymia submit`, and what a remote `raymia doctor` shares with it: a job is checked here, listed, and handed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from raymia.cli.console import err, out
from raymia.errors import ConfigError

if TYPE_CHECKING:  # these need Ray, which takes seconds to import
    from raymia.config import Job
    from raymia.engine.parcel import Parcel
    from raymia.engine.submission import Order

HELD_BACK = "excludes of the runtime environment, .gitignore or .rayignore hold it back"


def make_order(job_file: Path, overrides: Sequence[str], run: str | None, parcel: Parcel | None) -> Order:
    """Check a job as far as that can be done without the cluster, and write down what is to be run there.

    Args:
        job_file: a file within the working directory.
        overrides: changes to the job as ``FIELD=VALUE``, as for `raymia scan`.
        run: run directory instead of the job's.
        parcel: the files that travel.

    Raises:
        ConfigError: the job is faulty, or names a file of this machine that does not travel.
    """
    from raymia.config import load_job, read_job
    from raymia.engine.submission import Order
    from raymia.scan.sweep import load_sweep

    inside = travelling(job_file, parcel)
    command, jobs = "scan", []
    if "sweep" in read_job(job_file, list(overrides), run):
        command, jobs = "sweep", [cell.job for cell in load_sweep(job_file, None, list(overrides), run)[1]]
    else:
        jobs = [load_job(job_file, list(overrides), run)]
    if parcel is not None:
        _require_travels(jobs[0], parcel)
    words = ["python", "-m", "raymia", command, inside]
    for override in overrides:
        words += ["--set", override]
    words += ["--run", run] if run else []
    does = [{**job.identity(), "run": job.run.rstrip("/")} for job in jobs]
    return Order(job_file.stem, tuple(words), {"command": command, "does": does})


def travelling(job_file: Path, parcel: Parcel | None) -> str:
    """Where a job file will be within the working directory on the cluster.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path.cwd() if parcel is None else parcel.folder
    try:
        inside = job_file.resolve().relative_to(folder)
    except ValueError as error:
        raise ConfigError(f"{job_file}: expected below the working directory {folder}, which travels to the cluster") from error
    if parcel is not None and job_file.is_file() and not parcel.holds(str(inside)):
        raise ConfigError(f"{job_file}: does not travel: {HELD_BACK}")
    return inside.as_posix()


def _require_travels(job: Job, parcel: Parcel) -> None:
    """Refuse a job that names files by relative paths which will not be on the cluster.

    Absolute paths and URLs may be reached from there alone, and names are looked up there.
    """
    from raymia.shipped import NAMED

    named: dict[str, str | None] = {"manifest": job.manifest, "clip": job.clip}
    if job.hosted is not None:
        named |= {f"replica.{name}": getattr(job.hosted, name, None) for name in ("autoencoder", "path")}
    else:
        named |= {"replica.model": job.model.model, "control_model": job.control_model}
    for field, name in named.items():
        if name is None or name in NAMED.names() or "://" in name or PurePosixPath(name).is_absolute() or name.startswith("~"):
            continue
        here = (parcel.folder / name).exists()
        if field not in ("manifest", "replica.path") and not here and not name.startswith("."):
            continue  # a name on the hub, or an architecture
        if not parcel.holds(name):
            why = HELD_BACK if here else "no such file"
            raise ConfigError(
                f"`{field}`: {name} does not travel to the cluster ({why}); put it into the working directory, or give a URL "
                "or a path that the cluster's nodes have"
            )


def show_parcel(parcel: Parcel | None, as_json: bool) -> None:
    """Print every file that would travel, and what is left out."""
    files: dict[str, int] = {} if parcel is None else parcel.files
    if as_json:
        content: dict[str, Any] = {"files": files, "bytes": sum(files.values())}
        out.show_json(content | {"secrets": parcel.secrets if parcel else (), "links": parcel.links if parcel else ()})
        return
    for name, size in sorted(files.items()):
        out.say(f"{size:>12,}  {name}", whole=True)
    announce(parcel)


def announce(parcel: Parcel | None) -> None:
    """Print what travels in a line."""
    err.say("No file travels: the working directory is elsewhere already" if parcel is None else parcel.summary(), whole=True)
