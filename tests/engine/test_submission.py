"""A job is checked and listed before it is handed in, is named by what it does, and brings no secret to the cluster."""

from __future__ import annotations

import http.server
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from typer.testing import CliRunner, Result

from raymia.cli import app
from raymia.engine.submission import Cluster, load_runtime_env
from raymia.errors import ConfigError, RaymiaError

JOB: dict[str, Any] = {
    "manifest": "testbed",
    "replica": {"model": "testbed", "resolution_px": 64},
    "attacks": {"random": {}},
}


class JobServer(http.server.BaseHTTPRequestHandler):
    """As much of Ray's job server as handing a job in asks for."""

    jobs: ClassVar[dict[str, dict[str, Any]]] = {}
    packages: ClassVar[dict[str, bytes]] = {}
    refuses: ClassVar[bool] = False

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "s"})
        elif self.path == "/api/jobs/":
            self._answer(200, list(self.jobs.values()))
        else:
            self._answer(200 if self.path in self.packages else 404, {})

    def do_PUT(self) -> None:
        self.packages[self.path] = self._content()
        self._answer(200, {})

    def do_POST(self) -> None:
        asked = json.loads(self._content())
        if self.refuses:
            self._answer(500, "no room\nfor \x1b[31mjobs")
            return
        job_id = asked.get("submission_id") or "raysubmit_1"
        facts = {"type": "SUBMISSION", "submission_id": job_id, "status": "RUNNING", "entrypoint": asked["entrypoint"]}
        self.jobs[job_id] = facts | {"runtime_env": asked["runtime_env"], "metadata": asked.get("metadata")}
        self._answer(200, {"job_id": job_id, "submission_id": job_id})

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, code: int, content: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode() if not isinstance(content, str) else content.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(JobServer, "jobs", {})
    monkeypatch.setattr(JobServer, "packages", {})
    monkeypatch.setattr(JobServer, "refuses", False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), JobServer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_job(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(JOB | changes))
    return path


@pytest.fixture
def submit(server: str) -> Callable[..., Result]:
    def call(*words: str) -> Result:
        done = CliRunner().invoke(app, ["submit", *words, "--address", server])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return call


def test_different_work_has_different_names_and_the_same_work_is_found_running(
    submit: Callable[..., Result], work: Path
) -> None:
    write_job(work / "a" / "scan.yaml")
    write_job(work / "b" / "scan.yaml", seed=1)
    write_job(work / "again.yaml", run="runs/scan")
    first = submit("a/scan.yaml")
    name = first.stderr.splitlines()[-2].split()[0]
    assert name.startswith("scan-")
    assert name.endswith("-1")
    others = [
        ("b/scan.yaml",),
        ("a/scan.yaml", "--run", "runs/other"),
        ("a/scan.yaml", "--set", "replica.model=testbed-tiny"),
        ("a/scan.yaml", "--set", "attacks.loss={}"),
    ]
    for words in others:
        assert "submitted, attempt 1" in submit(*words).stderr
    assert len(JobServer.jobs) == 5
    same = [
        ("a/scan.yaml",),
        ("again.yaml",),
        ("a/scan.yaml", "--set", "pool.batch_size=4"),
        ("a/scan.yaml", "--run", "runs/scan/"),
    ]
    for words in same:
        assert f"{name} is running already" in submit(*words).stderr
    assert len(JobServer.jobs) == 5
    JobServer.jobs[name]["status"] = "FAILED"
    assert f"{name[:-2]}-2 submitted, attempt 2" in submit("a/scan.yaml").stderr


def test_the_command_that_is_handed_in_and_the_one_that_follows_it_say_all_that_was_said(
    submit: Callable[..., Result], work: Path
) -> None:
    write_job(work / "jobs" / "two words.yaml")
    done = submit("jobs/two words.yaml", "--set", "clip='a b'", "--run", "s3://bucket/run")
    (job,) = JobServer.jobs.values()
    assert job["entrypoint"] == (
        "python -m raymia scan 'jobs/two words.yaml' --set 'clip='\"'\"'a b'\"'\"'' --run s3://bucket/run"
    )
    assert job["submission_id"].startswith("two-words-")
    assert "Follow it: raymia submit 'jobs/two words.yaml' --address http://127.0.0.1:" in done.stderr
    assert "--run s3://bucket/run --follow" in done.stderr


def test_a_sweep_is_checked_whole_and_handed_in_as_one(submit: Callable[..., Result], work: Path) -> None:
    write_job(work / "grid.yaml", sweep={"seed": [0, 1]})
    submit("grid.yaml")
    (job,) = JobServer.jobs.values()
    assert job["entrypoint"] == "python -m raymia sweep grid.yaml"
    write_job(work / "grid.yaml", sweep={"seed": [0, -1]})
    with pytest.raises(ConfigError, match=r"seed=-1: `seed`"):
        submit("grid.yaml")


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/"])
def test_the_address_that_is_given_wins_over_the_environment(
    server: str, work: Path, variable: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    write_job(work / "scan.yaml")
    done = CliRunner().invoke(app, ["submit", "scan.yaml", "--address", form.format(server)])
    assert done.exit_code == 0, done.output
    assert len(JobServer.jobs) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sed": 1}, "unknown key `sed`; did you mean `seed`"),
        ({"attacks": {"los": {}}}, "did you mean `loss`"),
        ({"attacks": {"pokemon": {}}}, "no `clip`"),
        ({"manifest": "data/gone.yaml"}, "`manifest`: data/gone.yaml does not travel to the cluster (no such file)"),
        ({"manifest": "held/m.yaml"}, "`manifest`: held/m.yaml does not travel to the cluster (excludes"),
        ({"replica": {"model": "./gone"}}, "`replica.model`: ./gone does not travel"),
        ({"replica": {"model": "held"}}, "`replica.model`: held does not travel"),
        ({"control_model": "held"}, "`control_model`: held does not travel"),
        ({"clip": "held"}, "`clip`: held does not travel"),
        ({"replica": {"service": "folder", "path": "by_hand"}}, "`replica.path`: by_hand does not travel"),
    ],
)
def test_a_faulty_job_is_refused_here_and_not_there(
    submit: Callable[..., Result], work: Path, changes: dict[str, Any], said: str
) -> None:
    (work / "held").mkdir()
    (work / "held" / "m.yaml").write_text("name: x")
    (work / ".rayignore").write_text("held\n")
    write_job(work / "scan.yaml", **changes)
    with pytest.raises(ConfigError) as caught:
        submit("scan.yaml")
    assert said in str(caught.value)
    assert not JobServer.jobs
    assert not JobServer.packages


def test_what_the_cluster_alone_may_reach_is_left_to_it(submit: Callable[..., Result], work: Path) -> None:
    changes = {"manifest": "s3://bucket/m.yaml", "replica": {"model": "org/model"}, "clip": "/mnt/clip"}
    write_job(work / "scan.yaml", **changes)
    assert "submitted, attempt 1" in submit("scan.yaml").stderr


def test_a_job_file_that_does_not_travel_is_refused(submit: Callable[..., Result], work: Path) -> None:
    write_job(work / "mine" / "scan.yaml")
    outside = write_job(work.parent / "outside.yaml")
    with pytest.raises(ConfigError, match="expected below the working directory"):
        submit(str(outside))
    (work / "mine" / ".gitignore").write_text("*.yaml\n")
    with pytest.raises(ConfigError, match=r"scan\.yaml: does not travel"):
        submit("mine/scan.yaml")


def test_what_is_sent_is_what_is_listed_without_secrets(submit: Callable[..., Result], work: Path) -> None:
    write_job(work / "scan.yaml")
    for name in (".env", ".aws/credentials", "id_rsa", ".git/config", "runs/old/run.json"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("planted-secret")
    (work / "jobs").mkdir()
    (work / "jobs" / "runtime_env.yaml").write_text("excludes: ['!.env', '*.tmp']\nenv_vars: {A: b}\n")
    (work / "x.tmp").write_text("x")
    done = submit("scan.yaml")
    assert "left out as secrets: .aws, .env, id_rsa" in done.stderr
    (content,) = JobServer.packages.values()
    assert b"planted-secret" not in content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert set(archive.namelist()) == {"scan.yaml", "jobs/runtime_env.yaml"}
        assert "planted-secret" not in "".join(archive.read(name).decode() for name in archive.namelist())
    (job,) = JobServer.jobs.values()
    assert job["runtime_env"]["env_vars"] == {"A": "b"}
    assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    listed = CliRunner().invoke(app, ["submit", "scan.yaml", "--list", "--json"])
    assert set(json.loads(listed.stdout)["files"]) == {"scan.yaml", "jobs/runtime_env.yaml"}
    assert len(JobServer.jobs) == 1, "a list hands nothing in"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "expected a map"),
        ("excludes: '*.tar'", "excludes: expected a list"),
        ("excludes: [1]", "excludes: expected a list"),
        ("excludes: ['!']", "not patterns as in .gitignore"),
        ("working_dir: gone", "gone is no folder"),
        ("working_dir: code.zip", "code.zip is no folder"),
        ("py_modules: [lib]", "py_modules: lib is a folder"),
        ("env_vars: {A: 1, A: 2}", "the key `A` stands in line 1 already"),
        ("working_dir: .\nworking_dir: ..", "the key `working_dir` stands in line 1 already"),
        ("a: [", "not YAML"),
    ],
)
def test_a_runtime_environment_that_cannot_be_is_refused(work: Path, text: str, said: str) -> None:
    (work / "lib").mkdir()
    (work / "code.zip").write_bytes(b"")
    (work / "env.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_runtime_env(work / "env.yaml")
    assert said in str(caught.value)


def test_a_working_directory_elsewhere_brings_nothing_from_here(work: Path, submit: Callable[..., Result]) -> None:
    (work / "env.yaml").write_text("working_dir: s3://bucket/code.zip\n")
    write_job(work / "scan.yaml")
    assert "No file travels" in submit("scan.yaml", "--runtime-env", "env.yaml").stderr
    assert not JobServer.packages


def test_a_server_that_refuses_is_one_line(server: str, submit: Callable[..., Result], work: Path) -> None:
    write_job(work / "scan.yaml")
    JobServer.refuses = True
    with pytest.raises(RaymiaError, match=r"the cluster refused the job: .*500.*no room") as caught:
        submit("scan.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(RaymiaError, match="was not stopped"):
        Cluster(server).cancel("nothing")


def test_list_and_address_go_together_as_they_should(work: Path) -> None:
    write_job(work / "scan.yaml")
    for words, said in ((("scan.yaml",), "--address"), (("scan.yaml", "--json"), "--json goes with --list")):
        done = CliRunner().invoke(app, ["submit", *words], env={"RAY_DASHBOARD_ADDRESS": ""})
        assert isinstance(done.exception, ConfigError)
        assert said in str(done.exception)
