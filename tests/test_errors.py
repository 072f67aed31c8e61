"""What errors say."""

from __future__ import annotations

import pickle  # noqa: TID251 - as between processes

from raymia.errors import ConfigError, RaymiaError, visible


def test_a_message_is_one_line_that_no_terminal_obeys() -> None:
    error = RaymiaError("shard a\x1b[31m.tar:\n  not\r\n readable \u202e, see  'x  y'\n")
    assert str(error) == "shard a\\x1b[31m.tar: not readable \\u202e, see  'x  y'"


def test_letters_of_every_script_stay() -> None:
    assert visible("größer 猫 🙂") == "größer 猫 🙂"


def test_a_message_holds_nothing_of_a_urls_credentials() -> None:
    error = ConfigError("manifest https://user:p@ss/word@host/m.yaml?sig=1#part: 404, url='s3://key:secret@bucket/x'")
    assert "p@ss" not in str(error)
    assert "sig" not in str(error)
    assert "secret" not in str(error)
    assert "host/m.yaml" in str(error)


def test_an_error_is_the_same_behind_another_process() -> None:
    error = ConfigError("a\nb")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (type(again), str(again)) == (ConfigError, "a b")
