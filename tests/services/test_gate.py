"""The gate before a service, by a clock of the test: rates, pauses, the circuit, patience and what may be spent."""

from __future__ import annotations

import pytest

from raymia.services.gate import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Gate, Limits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(**limits: float | int) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(Limits(**limits), clock), clock  # type: ignore[arg-type]


def goes(subject: Gate, question: str = "a") -> bool:
    turn = subject.take(question)
    return turn.wait_s is None and turn.over is None


def test_without_limits_every_call_has_its_turn() -> None:
    subject, _ = gate()
    assert all(goes(subject) for _ in range(1000))
    assert subject.counted().made == 1000


@pytest.mark.parametrize("per_minute", [6.0, 60.0, 600.0])
def test_so_many_calls_a_minute_go_through_and_no_more(per_minute: float) -> None:
    subject, clock = gate(calls_per_minute=per_minute)
    gone = 0
    for _ in range(6000):
        gone += goes(subject)
        clock.now += 0.1
    assert gone == pytest.approx(10 * per_minute, abs=1 + per_minute / 60)


def test_one_who_waits_as_told_has_a_turn_then() -> None:
    subject, clock = gate(calls_per_minute=6.0)
    assert goes(subject)
    wait_s = subject.take("a").wait_s
    assert wait_s == pytest.approx(10.0)
    clock.now += wait_s
    assert goes(subject)


def test_nobody_calls_while_the_service_asks_to_be_left_alone() -> None:
    subject, clock = gate()
    assert goes(subject)
    subject.report("a", "busy", 30.0, "status 429")
    assert subject.take("a").wait_s == pytest.approx(30.0)
    clock.now += 29.9
    assert not goes(subject)
    clock.now += 0.2
    assert goes(subject)
    assert (subject.counted().busy, subject.counted().failed) == (1, 0)


def test_where_it_does_not_say_how_long_pauses_double_until_an_image_comes() -> None:
    subject, clock = gate(patience_s=1e6)
    pauses = []
    for _ in range(8):
        clock.now += 100.0
        assert goes(subject)
        subject.report("a", "busy", None, "status 429")
        pauses.append(subject.take("a").wait_s)
    assert pauses == pytest.approx([min(FIRST_PAUSE_S * 2**i, LONGEST_PAUSE_S) for i in range(8)])
    clock.now += 100.0
    assert goes(subject)
    subject.report("a", "answered")
    assert goes(subject)
    subject.report("a", "busy", None, "status 429")
    assert subject.take("a").wait_s == pytest.approx(FIRST_PAUSE_S)


def test_failures_between_answers_open_no_circuit_however_many_they_are() -> None:
    subject, _ = gate()
    for number in range(1000):
        assert goes(subject)
        subject.report("a", "answered" if number % (FAILURES - 1) == 0 else "failed", None, "status 500")


def test_a_service_that_is_down_is_tried_by_one_call_at_a_time_and_ever_more_seldom() -> None:
    subject, clock = gate(patience_s=1e6)
    for number in range(FAILURES):
        assert goes(subject, f"{number}")
    for number in range(FAILURES):
        subject.report(f"{number}", "failed", None, "ConnectionRefusedError")
    assert subject.take("a").wait_s == pytest.approx(FIRST_PAUSE_S)
    clock.now += FIRST_PAUSE_S
    assert goes(subject)
    assert not goes(subject, "b"), "another call has to wait for the outcome of the one that tries"
    subject.report("a", "failed", None, "ConnectionRefusedError")
    assert subject.take("a").wait_s == pytest.approx(2 * FIRST_PAUSE_S)
    clock.now += 2 * FIRST_PAUSE_S
    assert goes(subject)
    subject.report("a", "answered")
    assert all(goes(subject) for _ in range(20)), "it is up again"


def test_calls_under_way_when_it_goes_down_make_the_pause_no_longer() -> None:
    subject, _ = gate()
    for number in range(3 * FAILURES):
        assert goes(subject, f"{number}")
    for number in range(3 * FAILURES):
        subject.report(f"{number}", "failed", None, "status 503")
    assert subject.take("a").wait_s == pytest.approx(FIRST_PAUSE_S)


def test_patience_ends_with_what_was_last_seen_and_an_answer_renews_it() -> None:
    subject, clock = gate(patience_s=60.0)
    assert goes(subject)
    subject.report("a", "failed", None, "status 503: maintenance")
    clock.now += 59.0
    assert goes(subject)
    subject.report("a", "answered")
    clock.now += 59.0
    assert goes(subject)
    subject.report("a", "failed", None, "status 503: maintenance")
    clock.now += 2.0
    assert subject.take("a").over == "has answered nothing for 61 s (last: status 503: maintenance)"


def test_a_service_that_is_slow_and_fails_at_nothing_is_waited_for() -> None:
    subject, clock = gate(patience_s=60.0)
    assert goes(subject)
    clock.now += 1e6
    assert goes(subject)


def test_no_more_images_are_asked_for_than_may_be_paid_and_what_failed_is_not_paid() -> None:
    subject, _ = gate(images=2)
    assert goes(subject, "a")
    assert goes(subject, "b")
    assert subject.take("c").wait_s is not None, "one that is under way may fail"
    subject.report("a", "failed", None, "status 500")
    assert goes(subject, "c")
    subject.report("b", "answered")
    subject.report("c", "answered")
    assert "budget" in str(subject.take("a").over)


def test_a_call_whose_process_died_before_its_outcome_is_not_waited_for_for_ever() -> None:
    subject, clock = gate(images=2, lease_s=60.0)
    assert goes(subject, "a")
    subject.report("a", "answered")
    assert goes(subject, "b"), "and nothing is ever said of it"
    assert subject.take("c").wait_s is not None
    clock.now += 61.0
    assert goes(subject, "c"), "what it was promised is free again"
    subject.report("c", "answered")
    assert "is at its budget" in str(subject.take("d").over)
    down, clock = gate(patience_s=1e6, lease_s=60.0)
    for number in range(FAILURES):
        assert goes(down, f"{number}")
        down.report(f"{number}", "failed", None, "status 500")
    clock.now += LONGEST_PAUSE_S
    assert goes(down, "a"), "the one that tries, and dies"
    assert not goes(down, "b")
    clock.now += 61.0
    assert goes(down, "b"), "another tries in its place"


def test_questions_that_the_service_always_fails_at_open_no_circuit_for_the_others() -> None:
    subject, _ = gate()
    for number in range(5 * FAILURES):
        assert goes(subject, f"{number % 2}")
        subject.report(f"{number % 2}", "failed", None, "status 500")
    assert goes(subject, "another")


def test_a_service_that_was_there_and_is_gone_says_nothing_of_a_question() -> None:
    subject, clock = gate(patience_s=600.0)
    assert goes(subject)
    assert not subject.report("a", "unreachable", None, "ConnectionRefusedError"), "it may be a wrong address"
    assert goes(subject)
    assert not subject.report("a", "answered")
    waits = []
    for _ in range(6):
        assert goes(subject)
        assert subject.report("a", "unreachable", None, "ConnectionRefusedError")
        waits.append(subject.take("a").wait_s)
        clock.now += waits[-1]
    assert waits == pytest.approx([min(FIRST_PAUSE_S * 2**i, LONGEST_PAUSE_S) for i in range(6)])
    clock.now += 600.0
    assert "has answered nothing" in str(subject.take("a").over)


def test_a_key_that_is_not_accepted_ends_the_turns_of_all() -> None:
    subject, _ = gate()
    assert goes(subject, "a")
    assert goes(subject, "b")
    subject.report("a", "stopped", None, "status 401")
    assert subject.take("c").over == "cannot be asked any more: status 401"
    subject.report("b", "answered")
    assert subject.take("b").over is not None
    assert (subject.counted().answered, subject.counted().failed) == (1, 1)
