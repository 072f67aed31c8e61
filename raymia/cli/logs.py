"""Log lines for people on a terminal, or as JSON for machines that collect them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from rich.console import Console
from rich.logging import RichHandler

from raymia.cli.console import pictured
from raymia.urls import public

FIELDS = ("run", "split", "shard", "unit", "samples", "quarantined")
"""Extra fields that log calls may give, each in its own field of a JSON line."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whichever of `FIELDS` were given."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_text:
            line["error"] = record.exc_text
        elif record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class WithoutSecrets(logging.Filter):
    """Cleans what any library logs, errors with their addresses included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = public(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = public(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


class LineFormatter(logging.Formatter):
    """The message alone, in one line whatever names stand in it; behind it the trace of an error, where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The message of a record."""
        return pictured(super().formatMessage(record))


def set_up(console: Console, as_json: bool) -> None:
    """Send log lines to `console`, or to standard error as JSON, with a line per committed unit there."""
    handler: logging.Handler
    if as_json:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
    else:
        handler = RichHandler(console=console, show_path=False)
        handler.setFormatter(LineFormatter("%(message)s"))
    handler.addFilter(WithoutSecrets())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("raymia").setLevel(logging.DEBUG if as_json else logging.INFO)
