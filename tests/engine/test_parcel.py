"""What travels to a cluster: never a secret, nothing from outside, no more than a bound, and just what was listed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import get_uri_for_package, unzip_package

from raymia.engine import parcel as parcels
from raymia.engine.parcel import Parcel, make_parcel
from raymia.errors import ConfigError

PLANTED = "planted-secret"
SECRETS = (
    *(".env", ".env.production", "deploy/.ENV", "config/prod.env", ".envrc", ".aws/credentials", ".aws/config"),
    *(".ssh/id_rsa", "id_rsa", "keys/ID_ED25519", "id_ecdsa.old", "server.pem", "tls/private.key", "cert.P12", ".netrc"),
    *("_netrc", ".npmrc", ".pypirc", "credentials.json", "credentials", "gcp/my-service-account.json", "kaggle.json"),
    *("client_secret_123.json", ".kube/config", "prod.kubeconfig", ".docker/config.json", ".git-credentials"),
    *("secrets.toml", "infra/terraform.tfstate", "hub.token", ".config/gcloud/access_tokens.db", ".bash_history"),
)
USELESS = (".git/config", "sub/.git", ".venv/bin/python", "pkg/__pycache__/a.pyc", ".mypy_cache/x.json", "runs/demo/run.json")
PRIVATE_KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n" + PLANTED


def plant(folder: Path, *names: str, content: str = PLANTED) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with a job and every kind of secret."""
    folder = tmp_path / "work"
    plant(folder, "jobs/scan.yaml", "raymia/keys.py", "data/run.json", content="harmless")
    plant(folder, *SECRETS, *USELESS)
    plant(folder, "deploy_key", "notes/old.txt", content=PRIVATE_KEY)
    plant(folder, "account.json", content='{"private_key": "' + PRIVATE_KEY.replace("\n", "\\n") + '"}')
    plant(folder, "boto.cfg", content="aws_secret_access_key = " + "A" * 40 + PLANTED)
    return folder


def unpacked(parcel: Parcel, folder: Path) -> dict[str, str]:
    """What Ray makes of a parcel on a node, by its own function."""
    package = folder / "package.zip"
    parcel.write_zip(package)
    target = folder / "unpacked"
    unzip_package(str(package), str(target), remove_top_level_directory=False, unlink_zip=True)
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


def test_no_planted_secret_is_in_what_ray_unpacks_on_a_node(work: Path, tmp_path: Path) -> None:
    parcel = make_parcel(work)
    files = unpacked(parcel, tmp_path)
    assert files == dict.fromkeys(("jobs/scan.yaml", "raymia/keys.py", "data/run.json"), "harmless")
    assert set(parcel.files) == set(files), "just what is listed travels"
    for name in SECRETS:
        assert any(name == left or name.startswith(f"{left}/") for left in parcel.secrets), name
    assert {"deploy_key", "notes/old.txt", "account.json", "boto.cfg"} <= set(parcel.secrets)


def test_nothing_that_a_runtime_environment_says_brings_a_secret_back(work: Path, tmp_path: Path) -> None:
    plant(work, ".gitignore", ".rayignore", content="!.env\n!id_rsa\n!*.pem\n")
    files = unpacked(make_parcel(work, ["!.env", "!.aws", "!**/*.key"]), tmp_path)
    assert PLANTED not in "".join(files.values())


def test_excludes_and_ignore_files_hold_back_what_they_name(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, "data/a.tar", "data/deep/b.tar", "docs/x.md", "docs/keep/y.md", "local.txt", content="x")
    plant(work, "docs/.gitignore", content="*.md\n!keep/\n/keep/z.md\n")
    plant(work, ".rayignore", content="local.*\n")
    assert set(make_parcel(work, ["*.tar", "/data/run.json"]).files) == {
        *("jobs/scan.yaml", "raymia/keys.py", "docs/.gitignore", ".rayignore"),
    }
    monkeypatch.setenv(parcels.IGNORES_GITIGNORE, "1")
    assert "docs/x.md" in make_parcel(work).files
    assert "local.txt" not in make_parcel(work).files


def test_a_link_that_leads_out_is_refused_by_name_and_one_to_a_secret_does_not_travel(work: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (work / "shared").symlink_to(work / "data")
    (work / "settings.txt").symlink_to(work / ".env")
    (work / "cloud").symlink_to(work / ".aws")
    (work / "held").symlink_to(work / "raymia" / "keys.py")
    (work / "jobs" / "loop").symlink_to(work)
    (work / "gone").symlink_to(work / "nowhere")
    (work / "itself").symlink_to("itself")
    parcel = make_parcel(work, ["raymia"])
    assert set(parcel.files) == {"jobs/scan.yaml", "data/run.json", "shared/run.json"}
    assert set(parcel.links) == {"settings.txt", "cloud", "held", "jobs/loop", "gone", "itself"}
    for name, target in (("jobs/out", tmp_path / "elsewhere"), ("passwd", Path("/etc/passwd"))):
        (work / name).symlink_to(target)
        with pytest.raises(ConfigError, match=f"{name}: a link that leads out of"):
            make_parcel(work)
        assert name not in make_parcel(work, [f"/{name}"]).files
        (work / name).unlink()


def test_more_than_the_bound_is_refused_with_the_largest_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (work / "weights.bin").open("wb") as stream:
        stream.truncate(parcels.MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"the largest: weights\.bin \(200\.0 MiB\).*more than the 200\.0 MiB that may"):
        make_parcel(work)
    make_parcel(work, ["*.bin"])
    monkeypatch.setattr(parcels, "MAX_FILES", 2)
    with pytest.raises(ConfigError, match="more than 2 files would travel"):
        make_parcel(work, ["*.bin"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_passed_by_and_what_cannot_be_named_is_refused(work: Path) -> None:
    os.mkfifo(work / "pipe")
    assert "pipe" not in make_parcel(work).files
    Path(os.fsdecode(os.fsencode(work) + b"/caf\xe9")).write_text("x")
    with pytest.raises(ConfigError, match=r"caf\\xe9: its name is not UTF-8"):
        make_parcel(work)


def test_equal_files_are_sent_once_and_changed_ones_anew(work: Path, tmp_path: Path) -> None:
    names = []
    for number, change in enumerate(("harmless", "harmless", "changed")):
        plant(work, "jobs/scan.yaml", content=change)
        os.utime(work / "jobs" / "scan.yaml", (number, number))
        make_parcel(work).write_zip(tmp_path / f"{number}.zip")
        names.append(get_uri_for_package(tmp_path / f"{number}.zip"))
    assert names[0] == names[1] != names[2]
    with zipfile.ZipFile(tmp_path / "2.zip") as archive:
        assert archive.read("jobs/scan.yaml") == b"changed"


def test_what_travels_is_said_in_a_line(work: Path) -> None:
    plant(work, "big.txt", content="x" * 2**20)
    line = make_parcel(work).summary()
    assert "4 files of" in line
    assert "1.0 MiB; the largest: big.txt (1.0 MiB), " in line
    assert "left out as secrets: .aws, .bash_history" in line
    assert "\n" not in line
