"""Models of the hub that are compared by: by which revision they are pinned, and their files in its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download

from raymia.errors import ConfigError, first_line


def parted(model: str) -> tuple[str, str | None]:
    """The name of a model of the hub, and its revision behind an ``@``, none for the newest."""
    name, _, revision = model.partition("@")
    return name, revision or None


def pinned(model: str, fetch: Callable[[], Path]) -> str:
    """The name of a model with the revision that the hub gives now; a folder's is its own.

    Args:
        model: a folder, or the name of a model of the hub.
        fetch: brings one of its files from the hub.

    Raises:
        ConfigError: the hub does not give it and its cache lacks it.
    """
    if Path(model).is_dir() or parted(model)[1] is not None:
        return model
    # A file of a repository is kept in a folder that is named by its commit.
    return f"{parted(model)[0]}@{fetch().parent.name}"


def fetched(repository: str, revision: str | None, files: Sequence[str], what: str) -> list[Path]:
    """Files of a repository of the hub, in its cache.

    Args:
        repository, revision: where they are.
        files: their names.
        what: went wrong where they cannot be had, for the error.

    Raises:
        ConfigError: the hub does not give them and its cache lacks them.
    """
    with foreign(what):
        return [Path(hf_hub_download(repository, name, revision=revision)) for name in files]


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Within this block whatever libraries make of somebody else's files, or the hub of a name, is an error of this kind.

    Raises:
        ConfigError: says what went wrong, and what they said; one that is raised in the block stays as it is.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {first_line(error)}") from error
