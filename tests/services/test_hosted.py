"""Hosted services: many calls at a time, again where that may help, nothing twice, and reasons where there is no image."""

from __future__ import annotations

import copy
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raymia.errors import ConfigError
from raymia.services.answers import digest_of
from raymia.services.hosted import Asker
from raymia.services.openai import OpenAI
from raymia.services.protocol import Queries, Query, ServiceError, ServiceStoppedError, Surroundings
from tests.services.faulty import Handler, Server, picture, serving, wait_briefly

KEY = "sk-planted-0123456789/+="


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are those of a test."""
    wait_briefly(monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def service(server: Server, **options: Any) -> OpenAI:
    given = {"service": "openai", "url": server.url, "extensions": "muse", "resolution_px": 64, "timeout_s": 5.0}
    return OpenAI.model_validate(given | options)


def asker(server: Server, run: Path | None = None, **options: Any) -> Asker:
    opened = service(server, **options).open(None, Surroundings(None if run is None else str(run)))
    assert isinstance(opened, Asker)
    return opened


def drawn(count: int, draw: int = 0, prompts: list[str] | None = None) -> Queries:
    keys = [f"k{i}" for i in range(count)]
    return Queries(keys, draw, prompts or [f"prompt {i}" for i in range(count)], range(1, count + 1), 64, 64, 10, 7.5)


def test_images_come_back_in_the_order_of_the_questions_though_many_are_asked_for_at_a_time() -> None:
    with serving() as server:
        server.together = 8
        found = asker(server, in_flight=8).answer(drawn(16))
        assert server.most == 8
    expected = [picture({"prompt": f"prompt {i}", "seed": i + 1}, (64, 64)) for i in range(16)]
    for image, other in zip(found, expected, strict=True):
        pixels = torch.tensor(list(other.tobytes())).reshape(64, 64, 3).permute(2, 0, 1)
        assert torch.allclose(image, pixels.float() / 127.5 - 1.0)


def test_what_is_asked_ahead_is_asked_once_and_all_at_once() -> None:
    with serving() as server:
        server.together = 6
        subject = asker(server, in_flight=6)
        batches = [drawn(3, draw) for draw in (0, 0)] + [drawn(3, 1, ["other", "prompts", "here"])]
        subject.ask_ahead(batches)
        assert (len(server.asked), server.most) == (6, 6)
        for queries in batches:
            subject.answer(queries)
        assert len(server.asked) == 6


def test_nothing_that_was_answered_is_asked_again_by_another_process(tmp_path: Path) -> None:
    with serving() as server:
        first = asker(server, tmp_path).answer(drawn(4))
        again = asker(server, tmp_path).answer(drawn(6))
        assert torch.equal(first, again[:4])
        assert len(server.asked) == 6
        assert not server.repeated()


def test_a_service_without_seeds_gives_each_draw_of_each_sample_an_answer_of_its_own(tmp_path: Path) -> None:
    with serving(lambda number, body: "image") as server:
        plain = {"extensions": "none"}
        twice = ["the same", "the same"]
        subject = asker(server, tmp_path, **plain)
        for draw in (0, 1):
            subject.answer(drawn(2, draw, twice))
        assert len(server.asked) == 4
        assert all(set(body) == {"prompt", "n", "size", "output_format"} for body, _ in server.asked)
        asker(server, tmp_path, **plain).answer(drawn(2, 1, twice))
        assert len(server.asked) == 4


@pytest.mark.parametrize("deed", ["500", "502:bad gateway", "half", "408"])
def test_what_may_pass_is_tried_again_and_the_image_is_what_it_would_have_been(deed: str) -> None:
    with serving() as server:
        undisturbed = asker(server).answer(drawn(6))
    with serving(lambda number, body: deed if number % 3 == 1 else "image") as server:
        assert torch.equal(asker(server).answer(drawn(6)), undisturbed)
        assert len(server.asked) > 6


def test_a_call_that_fails_every_time_is_a_reason_of_its_sample_and_is_not_kept(tmp_path: Path) -> None:
    def rule(number: int, body: dict[str, Any]) -> str:
        return "500:overloaded" if body["prompt"] == "prompt 1" else "image"

    with serving(rule) as server:
        with pytest.raises(ServiceError, match=r"service_failed: .*status 500: overloaded.* \(tried 3 times\)"):
            asker(server, tmp_path, attempts=3).answer(drawn(3))
        assert len(server.asked) == 5
        server.rule = lambda number, body: "image"
        asker(server, tmp_path).answer(drawn(3))
        assert len(server.asked) == 6, "what was answered before is not asked again, and what failed is"


def test_a_call_without_an_answer_ends_after_its_time() -> None:
    with serving(lambda number, body: "hang:60" if number == 0 else "image") as server:
        start = time.monotonic()
        asker(server, timeout_s=0.3).answer(drawn(1))
        assert 0.3 <= time.monotonic() - start < 30.0


def test_a_service_that_is_busy_is_left_alone_as_long_as_it_asks_and_that_is_no_failed_try() -> None:
    with serving(lambda number, body: "busy:1" if number == 0 else "image") as server:
        start = time.monotonic()
        asker(server, attempts=1, in_flight=1).answer(drawn(3))
        assert time.monotonic() - start >= 1.0
        assert len(server.asked) == 4


def test_a_service_that_is_busy_for_ever_ends_the_scan_after_the_patience_of_the_job() -> None:
    with (
        serving(lambda number, body: "busy") as server,
        pytest.raises(ServiceStoppedError, match=r"has answered nothing for \d+ s \(last: status 429: slow down\)"),
    ):
        asker(server, patience_s=0.5).answer(drawn(2))


def test_a_service_that_is_down_ends_the_scan_after_the_patience_of_the_job() -> None:
    with serving() as server:
        subject = asker(server, patience_s=0.5, attempts=100)
    with pytest.raises(
        ServiceStoppedError, match=r"service openai at http://127.* has answered nothing .*answers so far are kept"
    ):
        subject.answer(drawn(2))


def test_a_service_that_comes_back_is_gone_on_with() -> None:
    with serving(lambda number, body: "503:maintenance" if number < 14 else "image") as server:
        assert len(asker(server, attempts=20).answer(drawn(8))) == 8


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("filter", "content_filter"),
        ("422:prompt is too long", "refused_by_service"),
        ("image:a different prompt", "prompt_changed"),
        ("black", "blank_answer"),
        ("blurred", "blurred_answer"),
        ("small", "wrong_size"),
        ("jpeg", "lossy_answer"),
        ("endless", "answer_too_large"),
    ],
)
def test_an_answer_that_is_no_image_of_the_model_has_a_reason_and_is_not_asked_for_again(
    tmp_path: Path, deed: str, reason: str
) -> None:
    with serving(lambda number, body: deed) as server:
        for _ in range(2):
            subject = asker(server, tmp_path, max_answer_bytes=2**20)
            with pytest.raises(ServiceError, match=f"^{reason}: "):
                subject.answer(drawn(1))
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_key_that_is_revoked_ends_the_scan_in_one_line_and_keeps_what_was_answered(tmp_path: Path, status: int) -> None:
    with serving(lambda number, body: "image" if number < 5 else f"{status}:no such key") as server:
        with pytest.raises(ServiceStoppedError, match=f"status {status}: the key is not accepted") as error:
            asker(server, tmp_path, in_flight=1).answer(drawn(8))
        assert KEY not in str(error.value)
        assert len(server.asked) == 6, "a call that cannot succeed is not tried again, and none after it"
        server.rule = lambda number, body: "image"
        asker(server, tmp_path).answer(drawn(8))
        asked = [body["prompt"] for body, _ in server.asked]
        assert [asked.count(f"prompt {i}") for i in range(5)] == [1] * 5


def test_calls_under_way_when_the_key_is_revoked_are_kept(tmp_path: Path) -> None:
    counter = itertools.count()
    with serving(lambda number, body: "401" if next(counter) == 0 else "image", seconds=0.1) as server:
        with pytest.raises(ServiceStoppedError):
            asker(server, tmp_path, in_flight=4).answer(drawn(4))
        server.rule = lambda number, body: "image"
        asker(server, tmp_path, in_flight=4).answer(drawn(4))
        assert len(server.asked) == 5


def test_quota_that_is_used_up_is_told_from_too_many_calls() -> None:
    with (
        serving(lambda number, body: "quota") as server,
        pytest.raises(ServiceStoppedError, match="what the key pays for is used up"),
    ):
        asker(server).answer(drawn(1))
    with (
        serving(lambda number, body: f"400:cannot draw {body['prompt']}") as server,
        pytest.raises(ServiceError, match=r"refused_by_service: .*insufficient_quota"),
    ):
        asker(server).answer(drawn(1, prompts=["insufficient_quota, written on a wall"]))


def test_an_address_where_nothing_is_ends_the_scan_and_a_redirection_is_not_followed() -> None:
    with (
        serving(lambda number, body: "404:no such model") as server,
        pytest.raises(ServiceStoppedError, match=r"status 404: no such model.*correct `replica`"),
    ):
        asker(server).answer(drawn(1))
    with serving() as other, serving(lambda number, body: f"307:{other.url}/images/generations") as server:
        with pytest.raises(ServiceStoppedError, match="status 307"):
            asker(server).answer(drawn(1))
        assert not other.asked


def test_who_interrupts_pays_for_nothing_more_and_keeps_what_was_under_way(tmp_path: Path) -> None:
    with serving(seconds=0.3) as server:
        timer = threading.Timer(0.8, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            asker(server, tmp_path, in_flight=2).answer(drawn(40))
        asked = len(server.asked)
        assert asked < 40
        server.seconds = 0.0
        asker(server, tmp_path).answer(drawn(40))
        assert len(server.asked) == 40


def test_a_budget_lets_as_many_images_through_as_it_pays_for() -> None:
    with serving() as server:
        subject = asker(server, price_per_image=0.5, budget=2.0)
        with pytest.raises(ServiceStoppedError, match="is at its budget: the 4 images"):
            subject.answer(drawn(9))
        assert len(server.asked) == 4


def test_an_answer_that_came_whole_without_an_image_is_not_paid_for_again() -> None:
    with serving(lambda number, body: "nonsense") as server:
        with pytest.raises(ServiceError, match=r"service_failed: .*an answer that cannot be read \(IndexError"):
            asker(server).answer(drawn(1))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (503, b"{}", {"Retry-After": "Fri, 27 Nov 99999999999999999999 13:00:00 GMT"}),
        (400, b"[" * 60_000, {}),
        (500, b'{"error":' * 450 + b"1" + b"}" * 450, {}),
        (400, b'{"error":{"message":"\\ud800 nsfw"}}', {}),
        (400, b"\xff\xfe\x00", {"x-request-id": "caf\xe9"}),
        (200, b"[" * 60_000, {}),
    ],
)
def test_words_of_a_server_that_nothing_can_be_made_of_are_a_reason_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes, headers: dict[str, str]
) -> None:
    def do(handler: Handler, deed: str, body: dict[str, Any]) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    monkeypatch.setattr(Handler, "do", do)
    with serving() as server, pytest.raises(ServiceError, match=r"^(service_failed|refused_by_service|content_filter): "):
        asker(server, tmp_path, attempts=2).answer(drawn(1))


@pytest.mark.parametrize("length", [250, 271, 283, 290, 296])
def test_no_part_of_a_key_is_left_where_a_servers_words_are_cut(length: int) -> None:
    with serving(lambda number, body: "400:" + "y" * length + " nsfw") as server, pytest.raises(ServiceError) as error:
        asker(server).answer(drawn(1))
    assert "sk-" not in str(error.value)


def test_a_key_in_the_prompt_that_a_server_sends_back_is_not_kept(tmp_path: Path) -> None:
    changed = pytest.raises(ServiceError, match="prompt_changed")
    with serving(lambda number, body: f"image:{body['prompt']} {KEY}") as server, changed:
        asker(server, tmp_path).answer(drawn(1))
    (record,) = tmp_path.rglob("*.json")
    assert "planted" not in record.read_text()


def test_passwords_of_the_machine_are_sent_nowhere_and_its_proxy_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving() as server:
        asker(server, key_env=None).answer(drawn(1))
        assert "Authorization" not in server.asked[0][1]
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        far = OpenAI.model_validate({"service": "openai", "url": "http://far.example/v1", "key_env": None, "resolution_px": 64})
        far.open(None, Surroundings()).answer(drawn(1))
        assert server.asked[1][1]["Host"] == "far.example"


def test_the_key_stands_in_no_file_no_error_and_no_option(tmp_path: Path) -> None:
    def rule(number: int, body: dict[str, Any]) -> str:
        return ["image", f"422:your key {KEY} is fine", "image", "500"][number % 4]

    errors = []
    with serving(rule) as server:
        subject = service(server, attempts=2)
        for i in range(8):
            try:
                subject.open(None, Surroundings(str(tmp_path))).answer(drawn(1, prompts=[f"prompt {i}"]))
            except (ServiceError, ServiceStoppedError) as error:
                errors.append(str(error))
        assert {headers["Authorization"] for _, headers in server.asked} == {f"Bearer {KEY}"}
    assert errors
    texts = [*errors, subject.model_dump_json(), repr(subject)]
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    for text in texts:
        assert KEY not in text
        assert "planted" not in text


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"url": "ftp://example.org"}, "expected an address that begins with https://"),
        ({"url": "https://me:secret@example.org"}, "without user, password and query"),
        ({"url": "https://example.org/?key=secret"}, "without user, password and query"),
        ({"url": "http://example.org"}, "would send the key unencrypted"),
        ({"budget": 10.0}, "goes with price_per_image"),
    ],
)
def test_options_that_would_give_a_key_away_or_mean_nothing_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        OpenAI.model_validate({"service": "openai", **options})


def test_a_machine_without_the_key_says_which_variable_is_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    subject = OpenAI(service="openai")
    with pytest.raises(ConfigError, match=r"replica\.key_env: no environment variable OPENAI_API_KEY"):
        subject.open(None, Surroundings())
    monkeypatch.setenv("OPENAI_API_KEY", "a\nb")
    with pytest.raises(ConfigError, match="is no key"):
        subject.open(None, Surroundings())


def test_patience_price_and_speed_are_no_part_of_what_identifies_a_service() -> None:
    one = OpenAI(service="openai", model="gpt-image-2")
    other = one.model_copy(update={"in_flight": 1, "price_per_image": 1.0, "timeout_s": 1.0, "key_env": "OTHER"})
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != OpenAI(service="openai", model="gpt-image-1").fingerprint()


def test_an_answer_is_one_to_all_that_was_asked_and_to_nothing_else() -> None:
    one = OpenAI(service="openai", extensions="muse", model="a", quality="high")
    query = next(iter(replace(drawn(1), images=torch.zeros(1, 3, 64, 64), strength=0.5)))
    others = {
        "prompt": "another", "seed": 7, "height": 72, "width": 72, "steps": 11, "guidance": None, "strength": 0.25,
        "image": torch.full((3, 64, 64), 0.01),
    }  # fmt: skip
    asked = [one.asked(query), *(one.asked(replace(query, **{name: value})) for name, value in others.items())]
    options = {"url": "https://other.example/v1", "model": "b", "quality": "low", "extensions": "none", "spacing": "trailing"}
    asked += [one.model_copy(update={name: value}).asked(query) for name, value in options.items()]
    assert len({digest_of(each) for each in asked}) == 1 + len(others) + len(options)
    assert {field.name for field in fields(Query)} == {*others, "key", "draw"}
    known = {*options, *one.free, "service", "resolution_px", "autoencoder"}
    assert set(OpenAI.model_fields) == known, "an option is part of what was asked, or free to change"
    same = [one.model_copy(update={name: None}) for name in one.free] + [one.model_copy(update={"resolution_px": 128})]
    assert {digest_of(each.asked(query)) for each in same} == {digest_of(asked[0])}


def test_an_answer_larger_than_now_allowed_is_neither_asked_for_again_nor_a_fault_of_storage(tmp_path: Path) -> None:
    with serving() as server:
        asker(server, tmp_path).answer(drawn(1))
        with pytest.raises(ServiceError, match=r"answer_too_large: \d+ bytes, kept; raise replica.max_answer_bytes"):
            asker(server, tmp_path, max_answer_bytes=2**10).answer(drawn(1))
        assert len(server.asked) == 1


def test_a_reason_survives_the_way_between_processes() -> None:
    error = copy.copy(ServiceError("content_filter", "status 400"))
    assert (error.reason, error.detail, str(error)) == ("content_filter", "status 400", "content_filter: status 400")


def _asks(made: Callable[[], OpenAI]) -> frozenset[str]:
    return frozenset(made().offers())


def test_a_service_offers_what_it_is_configured_for() -> None:
    assert _asks(lambda: OpenAI(service="openai")) == {"text_to_image", "lossless", "prompt"}
    assert {"seed", "strength", "steps"} <= _asks(lambda: OpenAI(service="openai", extensions="muse"))
    assert "reconstruction" in _asks(lambda: OpenAI(service="openai", extensions="muse", autoencoder="testbed"))
