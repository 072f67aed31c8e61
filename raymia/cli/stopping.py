"""SIGINT, SIGTERM and SIGHUP: a command ends within seconds, keeps what is written, and says how to go on."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import psutil
import typer
from typer.core import TyperGroup

from raymia.cli.console import err

SIGNALS = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)
PATIENCE_S = 8.0
"""For what is in progress to let go; then the process ends all the same."""
STDERR = 2
SIGNALLED = 128
"""Exit code of a command that a signal stopped, less the signal's number: the shell's convention."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end. Libraries treat it as they treat Ctrl-C."""


_received: list[int] = []
"""Numbers of the signals that have come. A library may answer one with an error of its own; here it is still known."""


def listen() -> None:
    """Let the first signal raise `Stopped`, and the second end the process at once.

    A signal that whoever started the command has it ignore, as `nohup` does, is still ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _take)


def _take(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        _end_now()
    watchdog = threading.Timer(PATIENCE_S, _end_late)
    watchdog.daemon = True
    watchdog.start()
    raise Stopped


def _end_late() -> None:
    os.write(STDERR, f"{_last_words()}\n".encode())
    _end_now()


def _end_now() -> None:
    """End this process and what it started, in the middle of whatever they do."""
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.Error:
            continue
    os._exit(exit_code())


def _last_words() -> str:
    name = signal.Signals(exit_code() - SIGNALLED).name
    return f"raymia: stopped by {name}; what was written is whole, and the same command goes on from there"


def exit_code() -> int:
    """Exit code of a command that a signal has stopped."""
    return SIGNALLED + (_received[0] if _received else signal.SIGINT)


class StoppableGroup(TyperGroup):
    """Commands that end in one line where a signal stops them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) and (not _received or isinstance(error, typer.Exit)):
                raise
            err.say(_last_words(), whole=True)
            raise typer.Exit(exit_code()) from error
