"""What travels to a cluster with a job: the files of the working directory, less what is secret or of no use there."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from pathspec import GitIgnoreSpec

from raymia.errors import ConfigError

MAX_FILES = 20_000
MAX_BYTES = 200 * 2**20
"""Of all files together. What is larger belongs into a bucket: every attempt of every job would send it again."""
SECRET = (
    *(".env", ".env.*", "*.env", ".envrc", "credentials*", "*credentials.json", "client_secret*.json", "secrets.*"),
    *("*service-account*.json", "*service_account*.json", "*serviceaccount*.json", "gha-creds-*.json", ".secrets"),
    *(".aws", ".azure", ".gcloud", ".boto", ".config", ".s3cfg*", "rclone.conf", ".kube", "*.kube", "kubeconfig*"),
    *("*.kubeconfig", ".ssh", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.ppk", "*.p8"),
    *("*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", ".gnupg", "*.ovpn", ".netrc", "_netrc", ".npmrc"),
    *(".yarnrc*", ".pypirc", ".pgpass", ".my.cnf", ".git-credentials", ".htpasswd", ".docker", ".dockercfg", ".ray"),
    *(".huggingface", ".hf_token", ".kaggle", "kaggle.json", "*.token", ".token", ".vault-token", ".terraform"),
    *("*.tfstate", "*.tfstate.*", "*.tfvars", ".*_history"),
)
"""Names, in lower case, of files and folders that may hold a secret. They never travel, whatever else is asked for."""
USELESS = (
    *(".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "*.pyc", ".*_cache", ".cache", ".tox", ".nox", "node_modules"),
    *(".ipynb_checkpoints", ".ds_store"),
)
"""Names, in lower case, of what no job needs, or holds what nobody would send: a repository's whole past, caches, libraries."""
RUNS = "runs"
"""Folder of the working directory where run directories are by default."""
KEY_WITHIN = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(\\r)?(\\n|\s)+[A-Za-z0-9+/=:-]{16}|aws_secret_access_key\s*=\s*[A-Za-z0-9/+]{40}"
)
LOOKED_AT = 2**16
"""Bytes of the beginning of each file that are searched for a key."""
MEND = "mend that, or name it in .rayignore"
IGNORE_FILES = (".gitignore", ".rayignore")
IGNORES_GITIGNORE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
"""Ray's variable under which files travel that git ignores."""


@dataclass(frozen=True)
class Parcel:
    """The files that travel, as they were found.

    Attributes:
        folder: where they lie.
        files: bytes of each, by its path within the folder.
        secrets: what was left out because it may hold a secret.
        links: links that were left out, because they lead nowhere, back into themselves, or to what does not travel.
    """

    folder: Path
    files: dict[str, int]
    secrets: tuple[str, ...]
    links: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(self.files.values())

    @property
    def largest(self) -> list[tuple[str, int]]:
        """The largest files with their bytes, the largest first."""
        return sorted(self.files.items(), key=lambda file: (-file[1], file[0]))[:3]

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder that a file that travels lies in."""
        return frozenset(str(parent) for name in self.files for parent in Path(name).parents)

    def holds(self, path: str) -> bool:
        """Whether a path within the folder travels: a file, or a folder with a file in it."""
        name = os.path.normpath(path)
        return name in self.files or name in self.folders

    def summary(self) -> str:
        """Count, bytes, largest and what was left out, in a line."""
        largest = ", ".join(f"{name} ({_size(size)})" for name, size in self.largest)
        line = f"{len(self.files):,} files of {self.folder} travel, {_size(self.bytes)}; the largest: {largest or 'none'}"
        for what, names in (("as secrets", self.secrets), ("as links", self.links)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                line += f"; left out {what}: {', '.join(names[:5])}{more}"
        return line

    def write_zip(self, path: Path) -> None:
        """Write the files as a zip; equal files give equal bytes, so that nothing is sent twice.

        Raises:
            ConfigError: a file cannot be read any more.
        """
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(self.files):
                source = self.folder / name
                try:
                    entry = zipfile.ZipInfo(name)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.external_attr = (source.stat().st_mode & 0xFFFF) << 16
                    archive.writestr(entry, source.read_bytes())
                except OSError as error:
                    raise ConfigError(f"{source}: cannot be read ({error.strerror}), but would travel") from error


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


def make_parcel(folder: Path, excludes: Sequence[str] = ()) -> Parcel:
    """Find what travels.

    Args:
        folder: the working directory.
        excludes: patterns of a runtime environment, in .gitignore's syntax. Files named .gitignore and .rayignore count too.

    Raises:
        ConfigError: a link leads out of the folder, a file cannot be read or named, or there are more than `MAX_FILES` or
            `MAX_BYTES`.
    """
    return _Search(folder.resolve(), excludes).run()


@dataclass(frozen=True)
class _Place:
    """A folder that is being looked through.

    Attributes:
        path: as it is called within the working directory, which for what lies behind a link differs from where it is.
        real: where it is.
        rules: what is ignored from each folder on, by the folder's path.
        passed: where the folders on the way here are.
    """

    path: str
    real: Path
    rules: tuple[tuple[str, GitIgnoreSpec], ...]
    passed: frozenset[Path]

    def ignores(self, path: str, is_folder: bool) -> bool:
        name = f"{path}/" if is_folder else path
        prefixes = ((f"{start}/" if start else "", rule) for start, rule in self.rules)
        return any(rule.match_file(name.removeprefix(prefix)) for prefix, rule in prefixes if name.startswith(prefix))


class _Search:
    def __init__(self, root: Path, excludes: Sequence[str]) -> None:
        self._root = root
        self._files: dict[str, int] = {}
        self._secrets: list[str] = []
        self._links: list[str] = []
        self._rules = (("", _spec(excludes, "excludes of the runtime environment")),)

    def run(self) -> Parcel:
        waiting = [_Place("", self._root, self._rules, frozenset({self._root}))]
        while waiting:
            waiting += self._look_through(waiting.pop())
        found = Parcel(self._root, self._files, tuple(sorted(self._secrets)), tuple(sorted(self._links)))
        if found.bytes > MAX_BYTES:
            raise ConfigError(
                f"{found.summary()}: more than the {_size(MAX_BYTES)} that may; put large files into a bucket, or name them in "
                "excludes of the runtime environment or in .rayignore"
            )
        return found

    def _look_through(self, place: _Place) -> Iterator[_Place]:
        rules = place.rules + tuple((place.path, rule) for rule in _ignore_files(place.real))
        place = _Place(place.path, place.real, rules, place.passed)
        for name in _names(place.real):
            path = f"{place.path}/{name}" if place.path else name
            real = place.real / name
            if _matches(name, USELESS) or path.lower() == RUNS or place.ignores(path, real.is_dir()):
                continue
            if _matches(name, SECRET):
                self._secrets.append(path)
            elif real.is_symlink() and not self._may_follow(path, real, place):
                self._links.append(path)
            elif real.is_dir():
                inner = real.resolve()
                yield _Place(path, inner, rules, place.passed | {inner})
            elif real.is_file():
                self._add(path, real)

    def _may_follow(self, path: str, link: Path, place: _Place) -> bool:
        """Whether what a link leads to travels under the link's name."""
        target = Path(os.path.realpath(link))
        if not target.exists() or target in place.passed:
            return False
        if not target.is_relative_to(self._root):
            raise ConfigError(
                f"{path}: a link that leads out of {self._root}, to {target}; what travels lies in the working directory: copy "
                "it there, or name the link in excludes of the runtime environment or in .rayignore"
            )
        inside = target.relative_to(self._root)
        named = any(_matches(part, (*SECRET, *USELESS)) for part in inside.parts)
        return not named and not any(place.ignores(str(part), part != inside) for part in (inside, *inside.parents[:-1]))

    def _add(self, path: str, real: Path) -> None:
        try:
            path.encode()
            with real.open("rb") as stream:
                beginning = stream.read(LOOKED_AT)
            size = real.stat().st_size
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); {MEND}") from error
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise ConfigError(f"{shown}: its name is not UTF-8; rename it or leave it out with .rayignore") from error
        if KEY_WITHIN.search(beginning):
            self._secrets.append(path)
            return
        self._files[path] = size
        if len(self._files) > MAX_FILES:
            raise ConfigError(
                f"{self._root}: more than {MAX_FILES:,} files would travel; submit from the folder of the job, or name what is "
                "not needed in excludes of the runtime environment or in .rayignore"
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be listed ({error.strerror}); {MEND}") from error


def _ignore_files(folder: Path) -> Iterator[GitIgnoreSpec]:
    for name in IGNORE_FILES:
        path = folder / name
        if path.is_file() and not (name == ".gitignore" and os.environ.get(IGNORES_GITIGNORE) == "1"):
            yield _spec(path.read_text(errors="replace").splitlines(), str(path))


def _spec(lines: Sequence[str], where: str) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: not patterns as in .gitignore: {error}") from error
