"""What is made of a service's answer: an image of the asked size as it was made, or the reason why it is none."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from raymia.data.images import MAX_PIXELS, ImageError, decode_image
from raymia.data.shapes import Shapes
from raymia.services.protocol import Query, ServiceError

LOSSLESS = ("png", "webp", "bmp", "tif", "tiff")
"""Endings of formats in which an image may come as it was made; a JPEG is none."""
SHARPEST_BLUR = 1.0 / 255.0
"""Root mean square of the Laplacian below which a picture has no detail at all, as where a filter has blurred it. Rounding to
8 bits alone gives up to .75 of the 255 steps, a single edge across a picture several."""
ONE_COLOUR = 0.5 / 255.0
"""Standard deviation of the brightness below which a picture is one colour."""


def image_of(content: bytes, query: Query, lossless: bool) -> Float[Tensor, "3 H W"]:
    """The image that a service sent, in [-1, 1].

    Args:
        content: the bytes of the image's file, which are not trusted.
        query: that it answers.
        lossless: whether it must be as it was made.

    Raises:
        ServiceError: it is no image, of another size, lossy where it must not be, or what a filter makes of images.
    """
    size = (query.height, query.width)
    try:
        made = decode_image(content, Shapes((size,)), MAX_PIXELS)
    except ImageError as error:
        raise ServiceError("no_image", f"the answer is no image that can be read: {error}") from error
    if (made.height, made.width) != size:
        raise ServiceError("wrong_size", f"{made.width} x {made.height} px; asked for {query.width} x {query.height}")
    if lossless and made.extension not in LOSSLESS:
        raise ServiceError(
            "lossy_answer", f"a {made.extension.upper()}, whose error is larger than what is looked for; expected a PNG"
        )
    image = torch.tensor(made.pixels).permute(2, 0, 1).float()
    brightness = image.mean(0) / 255.0
    if float(brightness.std()) < ONE_COLOUR:
        raise ServiceError("blank_answer", "one colour all over, as filters paint images that they hold back")
    if _detail(brightness) < SHARPEST_BLUR:
        raise ServiceError("blurred_answer", "no detail at all, as filters blur images that they hold back")
    return image / 127.5 - 1.0


def require_prompt(query: Query, prompt: str | None) -> None:
    """Refuse an image that was made of another prompt: what a caption attack asks is whether this caption brings it forth.

    Raises:
        ServiceError: the service says that it was.
    """
    if prompt is not None and " ".join(prompt.split()) != " ".join(query.prompt.split()):
        raise ServiceError("prompt_changed", f"made under another prompt: {prompt[:200]}")


def _detail(brightness: Tensor) -> float:
    """Root mean square of the Laplacian of a picture of 0 to 1."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return float(conv2d(brightness[None, None], kernel[None, None]).square().mean().sqrt())
