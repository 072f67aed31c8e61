"""What all commands share: where they print, their common options and their exit codes."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

PICTURES = 0x2400
"""Unicode's pictures of the control characters begin here, in their order."""
DELETE, PICTURE_OF_DELETE = 0x7F, "\u2421"
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that steer a terminal, turn the direction of text or are no characters."""
JOINERS = "\u200c\u200d"
"""Of these categories, but part of how some scripts and emoji are written."""


def pictured(text: str, lines: bool = False) -> str:
    """A text whose control characters are pictures, so that it steers no terminal and forges no line.

    Args:
        text: from anywhere: a run directory, a manifest, an error.
        lines: leave line breaks as they are.
    """
    if text.isprintable():
        return text
    return "".join(character if lines and character == "\n" else _picture(character) for character in text)


def _picture(character: str) -> str:
    code = ord(character)
    if code < ord(" "):
        return chr(PICTURES + code)
    if code == DELETE:
        return PICTURE_OF_DELETE
    return "\ufffd" if _unseen(character) else character


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


class Terminal(Console):
    """A console that shows whatever it is given as it stands: no markup, no emoji codes, no control characters of others.

    Styles are given as styles and not in the text, so that no name of a file or a sample can be taken for them.
    """

    def __init__(self, **options: Any) -> None:
        """Make the console; see `rich.console.Console` for its options."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever is printed comes through here, cells of tables and log lines too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(pictured(segment.text, lines=True), segment.style)

    def say(self, text: str, whole: bool = False) -> None:
        """Print one line, which nothing in the text breaks.

        Args:
            text: may hold names and messages from anywhere.
            whole: do not fold it to the width of the terminal, as what is copied from there must not be.
        """
        self.print(pictured(text), soft_wrap=whole)

    def show_json(self, content: Any) -> None:
        """Print a model or JSON-like data as JSON.

        What would steer a terminal stands in it as escapes, so that whoever parses it gets it back as it was.
        """
        plain = json.loads(content.model_dump_json()) if isinstance(content, BaseModel) else content
        text = json.dumps(plain, indent=2, ensure_ascii=False)
        self.print("".join(character if character == "\n" else _escape(character) for character in text), soft_wrap=True)


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1] if _unseen(character) else character


out = Terminal()
err = Terminal(stderr=True)


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    OVER_QUARANTINED = 3


def plain_table(title: str | None, texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """A table without rows or rules: columns of text, whose words are never cut, then columns of numbers."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in texts:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
