"""The edge to Pillow and its decoders: whatever goes wrong there is one error, with its reason."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from raymia.errors import first_line

# What Pillow logs of damaged files comes back as an error too, and need not be printed where nobody asked for logs.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(Exception):
    """An image that cannot be scored.

    Attributes:
        reason: one of ``empty_image``, ``unknown_format``, ``too_many_pixels``, ``corrupt_image``.
        detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Make the error; `reason` and `detail` are kept as attributes."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@contextmanager
def guarded() -> Iterator[None]:
    """Stands around calls of Pillow, and nothing else.

    Raises:
        ImageError: anything went wrong within, lack of memory included.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    except Exception as error:
        raise ImageError("corrupt_image", f"{type(error).__name__}: {first_line(error)}") from error
