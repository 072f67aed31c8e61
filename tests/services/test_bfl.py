"""Black Forest Labs' interface: tasks submitted once, asked after where they are known, and fetched without the key."""

from __future__ import annotations

import datetime
import io
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp.connector
import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.scan.service import ask_first, require_affordable
from raymia.services import bfl, calls, gate
from raymia.services.bfl import BlackForestLabs
from raymia.services.hosted import Asker
from raymia.services.protocol import Queries, ServiceError, ServiceStoppedError, Surroundings

KEY = "bfl-planted-0123456789/+="
HOSTS = ("api.bfl.ai", "api.eu2.bfl.ai", "delivery-eu4.bfl.ai", "results.blob.example", "bfl.ai.evil.example")
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """All the service's machines, and a stranger's, told apart by the name that they are called by.

    Attributes:
        asked: method, host, path, headers and body of each request, in the order in which they came.
        rule: the answer to a request by its kind (submit, poll, fetch) and its number of that kind; none for the usual one.
        polling: where a task is asked after.
        sample: where its image is.
        most: tasks that were under way at a time.
    """

    asked: list[tuple[str, str, str, dict[str, str], bytes]] = field(default_factory=list)
    rule: Callable[[str, int], Answer | None] = lambda kind, number: None
    polling: str = "https://api.eu2.bfl.ai/v1/get_result?id="
    sample: str = "https://delivery-eu4.bfl.ai/results/{}/sample.png?signature=s"
    tasks: dict[str, Any] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def kinds(self) -> list[str]:
        return [kind_of(method, path) for method, _, path, _, _ in self.asked]

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for method, _, _, _, body in self.asked if method == "POST"]

    def answer(self, method: str, host: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        kind = kind_of(method, path)
        with self.lock:
            number = self.kinds().count(kind)
            self.asked.append((method, host, path, headers, body))
            told = self.rule(kind, number)
            if told is not None:
                return told
            if kind == "submit":
                task = f"t{number}"
                self.tasks[task] = json.loads(body)
                self.under_way.add(task)
                self.most = max(self.most, len(self.under_way))
                return said(
                    {"id": task, "polling_url": f"{self.polling}{task}", "cost": 3.0, "input_mp": 0.0, "output_mp": 0.1}
                )
            if kind == "poll":
                task = path.rpartition("=")[2]
                if sum(asked[2] == path for asked in self.asked) < 2:
                    return said({"id": task, "status": "Pending", "result": None})
                result = {"sample": self.sample.format(task), "prompt": self.tasks[task]["prompt"], "seed": 1, "duration": 0.5}
                return said({"id": task, "status": "Ready", "result": result})
            task = path.split("/")[2]
            self.under_way.discard(task)
            return 200, {"Content-Type": "image/png"}, picture(self.tasks[task])


def kind_of(method: str, path: str) -> str:
    return "submit" if method == "POST" else "poll" if "get_result" in path else "fetch"


def said(content: dict[str, Any], status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


def picture(body: dict[str, Any]) -> bytes:
    pixels = np.random.default_rng(body["seed"]).integers(0, 256, (body["height"], body["width"], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, body["output_format"])
    return file.getvalue()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of all hosts, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's own")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that stands for all hosts over TLS, and is found in their place."""
    subject = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.answered(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            self.answered(b"")

        def answered(self, body: bytes) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answered, content = subject.answer(self.command, headers["host"], self.path, headers, body)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | answered).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    ours.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.socket = ours.wrap_socket(listening.socket, server_side=True)
        port = listening.server_address[1]

        def found(host: str, *_: Any, **__: Any) -> list[Any]:
            if host not in HOSTS:
                raise socket.gaierror(f"a test knows no host {host}")
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", theirs)
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield subject
        listening.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are those of a test, and the key is planted."""
    for module, name, seconds in (
        (calls, "FIRST_WAIT_S", 0.01),
        (calls, "LONGEST_WAIT_S", 0.02),
        (gate, "FIRST_PAUSE_S", 0.02),
        (bfl, "FIRST_POLL_S", 0.01),
        (bfl, "LONGEST_POLL_S", 0.02),
    ):
        monkeypatch.setattr(module, name, seconds)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BFL_API_KEY", KEY)


def asker(run: Path | None = None, **options: Any) -> Asker:
    service = BlackForestLabs.model_validate({"service": "bfl", "resolution_px": 64, "attempts": 2} | options)
    opened = service.open(None, Surroundings(None if run is None else str(run)))
    assert isinstance(opened, Asker)
    return opened


def drawn(count: int = 1, steps: int | None = None, guidance: float | None = None, side: int = 64) -> Queries:
    keys, prompts = [f"k{i}" for i in range(count)], [f"prompt {i}" for i in range(count)]
    return Queries(keys, 0, prompts, range(1, count + 1), side, side, steps, guidance)


def job(attacks: dict[str, Any], run: str = "run", **replica: Any) -> Job:
    options = {"service": "bfl", "resolution_px": 256} | replica
    return parse_job({"manifest": "testbed", "replica": options, "attacks": attacks, "run": run, "clip": "testbed"}, "job.yaml")


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_bytes()) for file in folder.rglob("*.json")]


def test_a_task_is_submitted_then_asked_after_in_its_region_and_its_image_fetched_without_the_key(
    server: Server, tmp_path: Path
) -> None:
    found = asker(tmp_path).answer(drawn())
    pixels = torch.tensor(
        np.asarray(Image.open(io.BytesIO(picture({"seed": 1, "width": 64, "height": 64, "output_format": "png"}))))
    )
    assert torch.allclose(found[0], pixels.permute(2, 0, 1).float() / 127.5 - 1.0)
    assert [(method, host, path) for method, host, path, _, _ in server.asked] == [
        ("POST", "api.bfl.ai", "/v1/flux-2-pro"),
        ("GET", "api.eu2.bfl.ai", "/v1/get_result?id=t0"),
        ("GET", "api.eu2.bfl.ai", "/v1/get_result?id=t0"),
        ("GET", "delivery-eu4.bfl.ai", "/results/t0/sample.png?signature=s"),
    ]
    assert [headers.get("x-key") for _, _, _, headers, _ in server.asked] == [KEY, KEY, KEY, None]
    assert not any("authorization" in headers or KEY in path for _, _, path, headers, _ in server.asked)
    (record,) = kept(tmp_path)
    assert record["headers"] == {"cost": "3.0", "input_mp": "0.0", "output_mp": "0.1", "seed": "1", "duration": "0.5"}
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("flux-2-pro", {}, {"disable_pup": True}),
        ("flux-2-flex", {}, {"prompt_upsampling": False, "steps": 20, "guidance": 4.0}),
        ("flux-2-klein-4b", {}, {}),
        ("flux-pro-1.1", {"safety_tolerance": 6}, {"prompt_upsampling": False, "safety_tolerance": 6}),
        ("flux-dev", {"guidance": 3.0}, {"prompt_upsampling": False, "steps": 20, "guidance": 3.0}),
    ],
)
def test_each_model_is_told_to_draw_the_prompt_as_it_is_and_nothing_that_it_does_not_know(
    server: Server, model: str, options: dict[str, Any], told: dict[str, Any]
) -> None:
    subject = asker(model=model, **options)
    offered = BlackForestLabs.model_validate({"service": "bfl", "model": model}).offers()
    subject.answer(drawn(1, 20 if "steps" in offered else None, 4.0 if "guidance" in offered else None, 256))
    common = {"prompt": "prompt 0", "width": 256, "height": 256, "seed": 1, "safety_tolerance": 2, "output_format": "png"}
    assert server.bodies() == [common | told]
    assert server.asked[0][2] == f"/v1/{model}"


def test_an_image_of_another_prompt_is_quarantined(server: Server) -> None:
    result = {"sample": server.sample.format("t0"), "prompt": "prompt 0, cinematic, 8k"}
    server.rule = lambda kind, number: said({"status": "Ready", "result": result}) if kind == "poll" else None
    with pytest.raises(ServiceError, match="prompt_changed: made under another prompt: prompt 0, cinematic"):
        asker().answer(drawn())


@pytest.mark.parametrize("status", ["Request Moderated", "Content Moderated"])
def test_moderation_is_a_reason_that_is_kept(server: Server, status: str, tmp_path: Path) -> None:
    details = {"status": status, "result": None, "details": {"Moderation Reasons": ["Derivative Works", KEY]}}
    server.rule = lambda kind, number: said(details) if kind == "poll" else None
    for _ in range(2):
        with pytest.raises(ServiceError, match=f"content_filter: {status}: .*Derivative Works") as caught:
            asker(tmp_path).answer(drawn())
        assert KEY not in str(caught.value)
    assert server.kinds() == ["submit", "poll"]
    assert not any(KEY in json.dumps(record) for record in kept(tmp_path))


@pytest.mark.parametrize(
    ("poll", "why"),
    [
        (said({"status": "Error", "details": {"error": "out of memory"}}), "a task ended as: Error: .*out of memory"),
        (said({"status": "Failed"}), "a task ended as: Failed"),
        (said({"status": "Task not found"}), "a task ended as: Task not found"),
        (said({"detail": "Task not found"}, 404), "Task not found"),
        (said({"status": "Ready", "result": {}}), "without an image's address"),
        (said({"detail": "id: not one of ours"}, 422), "id: not one of ours"),
    ],
)
def test_a_task_that_comes_to_nothing_is_a_reason_that_is_not_kept_and_it_is_not_submitted_again(
    server: Server, poll: Answer, why: str, tmp_path: Path
) -> None:
    server.rule = lambda kind, number: poll if kind == "poll" else None
    subject = asker(tmp_path)
    for queries in (drawn(2), drawn(1)):  # together, and then one by one, as a scan does
        subject.ask_ahead([queries])
        with pytest.raises(ServiceError, match=f"service_failed: .*{why}"):
            subject.answer(queries)
    assert server.kinds().count("submit") == 2
    assert not kept(tmp_path)


def test_a_task_that_cannot_be_asked_after_for_a_while_is_not_submitted_again(server: Server) -> None:
    faults: list[Answer] = [(503, {"Retry-After": "0"}, b""), (500, {}, b""), (200, {}, b"<html>"), (429, {}, b""), said({})]
    server.rule = lambda kind, number: faults[number] if kind == "poll" and number < len(faults) else None
    asker().answer(drawn())
    assert server.kinds() == ["submit", *["poll"] * 6, "fetch"]


@pytest.mark.parametrize("poll", [said({"status": "Pending"}), said({"status": "Reasoning"}), (429, {}, b""), (500, {}, b"")])
def test_a_task_that_is_never_ready_ends_after_its_time_and_is_asked_after_when_it_is_asked_for_again(
    server: Server, poll: Answer
) -> None:
    server.rule = lambda kind, number: poll if kind == "poll" else None
    subject = asker(ready_within_s=0.2)
    with pytest.raises(ServiceError, match=r"service_failed: a task was not ready within 0\.2 s"):
        subject.answer(drawn())
    server.rule = lambda kind, number: None
    subject.ask_ahead([drawn()])
    subject.answer(drawn())
    assert server.kinds().count("submit") == 1


def test_another_process_submits_what_one_that_was_killed_had_waited_for(server: Server, tmp_path: Path) -> None:
    server.rule = lambda kind, number: said({"status": "Pending"}) if kind == "poll" else None
    with pytest.raises(ServiceError, match="service_failed"):
        asker(tmp_path, ready_within_s=0.1).answer(drawn())
    server.rule = lambda kind, number: None
    asker(tmp_path).answer(drawn())
    assert server.kinds().count("submit") == 2


@pytest.mark.parametrize(
    "fetch", [(403, {}, b"<Error>AuthenticationFailed</Error>"), (404, {}, b""), (500, {}, b""), (200, {}, b"")]
)
def test_an_image_that_is_not_given_out_is_a_reason_and_its_task_is_not_submitted_again(server: Server, fetch: Answer) -> None:
    server.rule = lambda kind, number: fetch if kind == "fetch" else None
    subject = asker()
    with pytest.raises(ServiceError, match="service_failed: the image"):
        subject.answer(drawn())
    server.rule = lambda kind, number: None
    subject.ask_ahead([drawn()])
    subject.answer(drawn())
    assert server.kinds().count("submit") == 1


def test_an_image_is_not_followed_elsewhere(server: Server) -> None:
    away = (302, {"Location": "https://results.blob.example/results/t0/sample.png"}, b"")
    server.rule = lambda kind, number: away if kind == "fetch" else None
    with pytest.raises(ServiceError, match="service_failed: the image's address was refused"):
        asker().answer(drawn())
    assert [host for _, host, _, _, _ in server.asked][-1] == "delivery-eu4.bfl.ai"


def test_an_image_may_lie_with_another_provider_and_must_not_be_too_large(server: Server) -> None:
    server.sample = "https://results.blob.example/results/{}/sample.png"
    asker().answer(drawn())
    _, host, _, headers, _ = server.asked[-1]
    assert (host, headers.get("x-key")) == ("results.blob.example", None)
    server.rule = lambda kind, number: (200, {}, bytes(4096)) if kind == "fetch" else None
    with pytest.raises(ServiceError, match="answer_too_large"):
        asker(max_answer_bytes=2048).answer(drawn())


@pytest.mark.parametrize(
    "sample", ["http://delivery-eu4.bfl.ai/x", "https://169.254.169.254/x", "https://localhost/x", "file:///etc/x"]
)
def test_an_image_is_fetched_over_https_from_a_named_host_alone(server: Server, sample: str) -> None:
    server.sample = sample
    with pytest.raises(ServiceError, match="service_failed: the image's address is none that is fetched"):
        asker().answer(drawn())
    assert "fetch" not in server.kinds()


@pytest.mark.parametrize(
    "polling",
    [
        "http://api.eu2.bfl.ai/v1/get_result?id=",
        "https://bfl.ai.evil.example/v1/get_result?id=",
        "https://evilbfl.ai/v1/get_result?id=",
        "https://api.bfl.ai@bfl.ai.evil.example/v1/get_result?id=",
        "https://user:word@api.bfl.ai/v1/get_result?id=",
        "https://bfl.ai.evil.example\\@api.bfl.ai/v1/get_result?id=",
        "https://api.bfl.ai:8443/v1/get_result?id=",
        "https://[/v1/get_result?id=",
        "/v1/get_result?id=",
    ],
)
def test_the_key_goes_to_no_other_server_that_is_named_as_the_one_to_ask(server: Server, polling: str) -> None:
    server.polling = polling
    with pytest.raises(ServiceStoppedError, match="its polling_url is of another server, to which the key is not sent"):
        asker().answer(drawn())
    assert server.kinds() == ["submit"]


def test_a_gateway_of_ones_own_is_asked_itself_and_its_key_goes_to_nobody_else() -> None:
    gateway = "https://flux.example.org:8000/bfl"
    assert bfl._is_own("https://flux.example.org:8000/v1/get_result?id=1", gateway)
    assert bfl._is_own("https://eu.flux.example.org/v1/get_result?id=1", gateway)
    assert not bfl._is_own("https://api.bfl.ai/v1/get_result?id=1", gateway)
    assert bfl._is_own("http://127.0.0.1:8000/v1/get_result?id=1", "http://127.0.0.1:8000")
    assert not bfl._is_own("http://127.0.0.1:8001/v1/get_result?id=1", "http://127.0.0.1:8000")


@pytest.mark.parametrize("answer", [(200, {}, b"<html>"), said({"id": "t0"}), said({"polling_url": None})])
def test_a_submission_that_was_answered_is_not_made_again_whatever_the_answer(server: Server, answer: Answer) -> None:
    server.rule = lambda kind, number: answer if kind == "submit" else None
    with pytest.raises((ServiceError, ServiceStoppedError)):
        asker().answer(drawn())
    assert server.kinds() == ["submit"]


def test_a_submission_that_was_not_taken_is_made_again(server: Server) -> None:
    server.rule = lambda kind, number: [(503, {}, b""), (429, {}, b"")][number] if kind == "submit" and number < 2 else None
    asker().answer(drawn())
    assert server.kinds() == ["submit"] * 3 + ["poll", "poll", "fetch"]


def test_no_more_tasks_are_under_way_than_calls_may_be(server: Server) -> None:
    subject = asker(in_flight=2)
    subject.answer(drawn(6))
    subject.answer(drawn(8))
    assert (server.most, server.kinds().count("submit")) == (2, 8)


def test_a_key_or_credits_that_do_not_do_end_the_scan_and_a_prompt_that_is_refused_does_not(server: Server) -> None:
    details = {403: "Not authenticated", 401: f"no {KEY}", 402: "Insufficient credits", 422: f"Invalid API key {KEY}"}
    for status, detail in details.items():
        refusal = said({"detail": detail}, status)
        server.rule = lambda kind, number, refusal=refusal: refusal  # type: ignore[misc]
        with pytest.raises(ServiceStoppedError, match=f"status {status}: the key is not accepted") as caught:
            asker().answer(drawn())
        assert KEY not in str(caught.value)
    server.rule = lambda kind, number: said({"detail": "prompt is too long"}, 400)
    with pytest.raises(ServiceError, match="refused_by_service: status 400: prompt is too long"):
        asker().answer(drawn())
    assert server.kinds() == ["submit"] * 5


@pytest.mark.parametrize("attack", ["pokemon", "rediffuse"])
@pytest.mark.parametrize("model", list(bfl.ROUTES))
def test_attacks_that_begin_at_a_noise_level_are_refused_as_a_reference_is_none(model: str, attack: str) -> None:
    with pytest.raises(ConfigError, match=rf"attacks\.{attack}: asks for image_to_image, strength, which service bfl does not"):
        job({attack: {}}, model=model)


def test_steps_and_guidance_are_told_to_models_that_take_them_and_left_to_others() -> None:
    told = {model: job({"generation": {}}, model=model).attacks["generation"].model_dump() for model in bfl.ROUTES}
    assert {model: (found["steps"], found["guidance"]) for model, found in told.items()} == {
        "flux-2-pro": (None, None),
        "flux-2-flex": (30, 7.5),
        "flux-2-klein-4b": (None, None),
        "flux-2-klein-9b": (None, None),
        "flux-pro-1.1": (None, None),
        "flux-dev": (30, None),
    }
    for model in bfl.ROUTES:
        require_affordable(job({"generation": {}}, model=model), 10)
    with pytest.raises(ConfigError, match=r"attacks\.generation: asks for steps, which service bfl does not offer"):
        job({"generation": {"steps": 20}})


def test_what_a_model_does_not_take_is_refused_before_the_scan() -> None:
    flex = {"model": "flux-2-flex"}
    for attack, replica, why in (
        ({}, {"resolution_px": 520}, "resolution_px: 520, but flux-2-pro makes sides that are multiples of 16, 64 to 2048"),
        ({}, {"resolution_px": 2064}, "resolution_px: 2064"),
        ({}, {"resolution_px": 528, "model": "flux-dev"}, "multiples of 32, 256 to 1440"),
        ({"steps": 51}, flex, "steps 51: flux-2-flex takes 1 to 50"),
        ({"guidance": 1}, flex, "guidance 1: flux-2-flex takes 1.5 to 10"),
    ):
        with pytest.raises(ConfigError, match=why):
            require_affordable(job({"generation": attack}, **replica), 10)
    with pytest.raises(ConfigError, match="safety_tolerance: flux-2-pro takes 0 to 5"):
        job({"generation": {}}, safety_tolerance=6)
    with pytest.raises(ConfigError, match="guidance: goes with model: flux-dev"):
        job({"generation": {}}, guidance=3.0, **flex)


def test_first_questions_are_asked_as_a_scan_asks_them_and_the_key_is_nowhere(server: Server, tmp_path: Path) -> None:
    found = job({"generation": {}}, str(tmp_path))
    assert isinstance(found.replica, BlackForestLabs)
    record = ask_first(found, found.replica, None)
    assert (record.repeats, record.calls.answered, server.kinds().count("submit")) == (True, 2, 2)
    assert KEY not in found.model_dump_json()
    assert "ready_within_s" not in found.identity()["replica"]
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
