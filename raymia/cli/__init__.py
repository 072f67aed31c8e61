"""The command line: commands, and all that is printed on a terminal."""

from raymia.cli.app import app, main

__all__ = ["app", "main"]
