"""Stability AI's interface: what is sent in which form, and what its answers mean."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raymia.config import Job, parse_job
from raymia.errors import ConfigError
from raymia.scan.service import ask_first, require_affordable
from raymia.services import calls
from raymia.services.protocol import Queries, ServiceError, ServiceStoppedError, Surroundings
from raymia.services.stability import SEEDS, Stability

KEY = "sk-planted-0123456789/+="
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """What was asked: path, headers and the form's parts by name, each with its type, file name and content."""

    url: str
    answer: Callable[[dict[str, Any]], Answer]
    asked: list[tuple[str, dict[str, str], dict[str, tuple[str, str | None, bytes]]]] = field(default_factory=list)


def picture() -> bytes:
    """A grey stripe pattern of 1024 px, which is quick to pack."""
    stripes = np.tile(np.arange(1024, dtype=np.uint8) * 37, (1024, 1))
    file = io.BytesIO()
    Image.fromarray(stripes).convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


PICTURE = picture()


def success(form: dict[str, Any]) -> Answer:
    said = {"image": base64.b64encode(PICTURE).decode(), "finish_reason": "SUCCESS", "seed": int(form["seed"][2])}
    return 200, {"Content-Type": "application/json", "x-request-id": "r1"}, json.dumps(said).encode()


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer] = success) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
            form = {
                str(part.get_param("name", header="content-disposition")): (
                    part.get_content_type(),
                    part.get_filename(),
                    bytes(part.get_payload(decode=True)),
                )
                for part in message.iter_parts()
            }
            server.asked.append((self.path, dict(self.headers), form))
            status, headers, content = server.answer(form)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = Server(f"http://127.0.0.1:{listening.server_address[1]}", answer)
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        listening.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are those of a test, and the key is planted."""
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(calls, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setenv("STABILITY_API_KEY", KEY)


def asked_for(
    server: Server, run: Path | None = None, image: bool = False, guidance: float | None = None, **options: Any
) -> torch.Tensor:
    service = Stability.model_validate({"service": "stability", "url": server.url, "attempts": 2} | options)
    images = torch.linspace(-1, 1, 1024).expand(1, 3, 1024, 1024) if image else None
    queries = Queries(["k"], 0, ["a lighthouse"], [SEEDS], 1024, 1024, None, guidance, images, 0.2 if image else None)
    return service.open(None, Surroundings(None if run is None else str(run))).answer(queries)


def job(attacks: dict[str, Any], run: str = "run", **replica: Any) -> Job:
    return parse_job(
        {
            "manifest": "testbed",
            "replica": {"service": "stability", **replica},
            "attacks": attacks,
            "run": run,
            "clip": "testbed",
        },
        "job.yaml",
    )


def test_an_image_from_text_is_asked_for_as_a_form_of_several_parts_without_an_image() -> None:
    with serving() as server:
        found = asked_for(server, guidance=7.5, negative_prompt="fog", model="sd3.5-medium")
    assert found.shape == (1, 3, 1024, 1024)
    ((path, headers, form),) = server.asked
    assert path == "/v2beta/stable-image/generate/sd3"
    assert headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert (headers["Accept"], headers["Authorization"]) == ("application/json", f"Bearer {KEY}")
    assert {name: content.decode() for name, (_, _, content) in form.items()} == {
        "prompt": "a lighthouse",
        "model": "sd3.5-medium",
        "mode": "text-to-image",
        "aspect_ratio": "1:1",
        "output_format": "png",
        "cfg_scale": "7.5",
        "negative_prompt": "fog",
        "seed": "1",
    }
    assert all(filename is None for _, filename, _ in form.values())


def test_an_image_from_an_image_is_sent_as_it_is_with_the_noise_level_as_strength_and_no_aspect_ratio() -> None:
    with serving() as server:
        asked_for(server, image=True)
    ((_, _, form),) = server.asked
    assert set(form) == {"prompt", "model", "mode", "seed", "output_format", "strength", "image"}
    assert (form["mode"][2], form["strength"][2], form["model"][2]) == (b"image-to-image", b"0.2", b"sd3.5-large")
    kind, filename, content = form["image"]
    assert (kind, filename) == ("image/png", "image.png")
    sent = np.asarray(Image.open(io.BytesIO(content)))
    assert sent.shape == (1024, 1024, 3)
    assert (sent[0, :, 0] == ((torch.linspace(-1, 1, 1024) + 1) * 127.5).round().byte().numpy()).all()


def test_a_seed_is_never_the_one_that_asks_for_any() -> None:
    service = Stability.model_validate({"service": "stability"})
    queries = Queries(["k"] * 4, 0, ["p"] * 4, [0, SEEDS - 1, SEEDS, 2**63 - 1], 1024, 1024, None, None)
    seeds = [service.seed(query) for query in queries]
    assert seeds[:3] == [1, 4294967294, 1]
    assert 1 <= seeds[3] <= 4294967294


@pytest.mark.parametrize("form", ["json", "image"])
def test_an_image_that_the_filter_blurred_is_refused_though_the_status_is_200(form: str, tmp_path: Path) -> None:
    def filtered(_: dict[str, Any]) -> Answer:
        said = {"image": base64.b64encode(PICTURE).decode(), "finish_reason": "CONTENT_FILTERED", "seed": 1}
        if form == "json":
            return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()
        return 200, {"Content-Type": "image/png", "finish-reason": "CONTENT_FILTERED"}, PICTURE

    with serving(filtered) as server:
        for _ in range(2):
            with pytest.raises(ServiceError, match="content_filter: finish_reason CONTENT_FILTERED"):
                asked_for(server, tmp_path)
    assert len(server.asked) == 1, "a refusal is kept"


def test_an_image_that_comes_as_a_file_is_taken_too() -> None:
    with serving(lambda _: (200, {"Content-Type": "image/png", "finish-reason": "SUCCESS", "seed": "1"}, PICTURE)) as server:
        assert asked_for(server).shape == (1, 3, 1024, 1024)


def test_another_end_than_success_is_a_reason_and_not_asked_for_again() -> None:
    said = json.dumps({"image": "", "finish_reason": "ERROR", "seed": 1}).encode()
    with (
        serving(lambda _: (200, {"Content-Type": "application/json"}, said)) as server,
        pytest.raises(ServiceError, match="service_failed: finish_reason ERROR"),
    ):
        asked_for(server)
    assert len(server.asked) == 1


def test_moderation_is_a_reason_of_the_sample_and_a_key_or_credits_that_do_not_do_end_the_scan() -> None:
    def refusing(status: int, name: str, error: str) -> Callable[[dict[str, Any]], Answer]:
        said = json.dumps({"id": "a1", "name": name, "errors": [error]}).encode()
        return lambda _: (status, {"Content-Type": "application/json"}, said)

    with serving(refusing(403, "content_moderation", "Your request was flagged by our content moderation system")) as server:
        with pytest.raises(ServiceError, match=r"content_filter: status 403: .*flagged"):
            asked_for(server)
        server.answer = refusing(400, "bad_request", "prompt: cannot be blank")
        with pytest.raises(ServiceError, match="refused_by_service: status 400: prompt: cannot be blank"):
            asked_for(server)
        for status in (401, 402, 403):
            server.answer = refusing(status, "unauthorized", f"key {KEY} is invalid")
            with pytest.raises(ServiceStoppedError, match=f"status {status}: the key is not accepted") as caught:
                asked_for(server)
            assert KEY not in str(caught.value)
    assert len(server.asked) == 5, "none of them is asked for again"


def test_what_failed_on_the_way_is_asked_for_again() -> None:
    with serving() as server:
        server.answer = lambda form: success(form) if len(server.asked) > 1 else (500, {}, b"{}")
        asked_for(server)
    assert len(server.asked) == 2


def test_a_job_leaves_steps_to_the_service_and_pokemon_begins_at_a_strength() -> None:
    found = job({"generation": {}, "pokemon": {"metrics": ["ssim"]}, "rediffuse": {}})
    generation, pokemon, rediffuse = (found.attacks[name].model_dump() for name in ("generation", "pokemon", "rediffuse"))
    assert (generation["steps"], generation["guidance"]) == (None, 7.5)
    assert (pokemon["steps"], pokemon["guidance"], pokemon["calibrate"]) == (None, 1.0, False)
    assert rediffuse["steps"] is None
    require_affordable(found, 10)
    with pytest.raises(ConfigError, match=r"attacks\.pokemon: asks for steps, which service stability does not offer"):
        job({"pokemon": {"steps": 10}})


@pytest.mark.parametrize("model", ["sd3.5-large-turbo", "sd3.5-flash"])
def test_models_of_four_steps_begin_at_no_noise_level(model: str) -> None:
    for attack in ("pokemon", "rediffuse"):
        with pytest.raises(ConfigError, match=f"attacks.{attack}: asks for image_to_image, strength, which service stability"):
            job({attack: {}}, model=model)
    require_affordable(job({"generation": {}}, model=model), 10)


def test_sizes_and_guidance_that_it_does_not_take_are_refused_before_the_scan() -> None:
    with pytest.raises(ConfigError, match="resolution_px: 512, but service stability makes square images of 1024 px alone"):
        require_affordable(job({"generation": {}}, resolution_px=512), 10)
    with pytest.raises(ConfigError, match="guidance 12: service stability takes 1 to 10"):
        require_affordable(job({"generation": {"guidance": 12}}), 10)
    with pytest.raises(ConfigError, match="sd3-large"):
        job({"generation": {}}, model="sd3-large")


def test_first_questions_are_kept_with_the_seed_and_without_the_key(tmp_path: Path) -> None:
    with serving() as server:
        found = job({"generation": {}}, str(tmp_path), url=server.url)
        assert isinstance(found.replica, Stability)
        assert ask_first(found, found.replica, None).repeats
    assert KEY not in found.model_dump_json()
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b'"x-request-id": "r1"' in content and b'"seed"' in content for content in kept)
    assert not any(KEY.encode() in content for content in kept)
