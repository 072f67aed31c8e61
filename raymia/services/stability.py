"""Stability AI's hosted Stable Diffusion 3.5."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from raymia.errors import ConfigError
from raymia.services.calls import Calls, Reply
from raymia.services.hosted import Hosted, Made, png_of
from raymia.services.protocol import Capability, Query, ServiceError

SIDE_PX = 1024
"""Of its square images: a size cannot be asked for."""
SEEDS = 2**32 - 2
"""Seeds are 1 to this; 0 asks for a random one."""
CFG_SCALES = (1.0, 10.0)
FEW_STEPS = ("sd3.5-large-turbo", "sd3.5-flash")
"""Models that make an image in four steps."""


class Stability(Hosted):
    """``POST v2beta/stable-image/generate/sd3`` of api.stability.ai, as a form of several parts.

    An image from text has an aspect ratio and no size: 1:1 gives 1024 px. Strength is the noise level as the service counts it:
    at 0 the image is the one that was sent, at 1 as if none had been; at which level of the model's own schedule it begins in
    between, and in how many steps, it does not say. The four steps of the turbo and flash models leave next to no levels, so
    that of these only images from text are asked. Names of models of version 3.0 are not taken, as other models answer to them.

    A call that broke off before its answer is made again, and may then be paid twice: there is no key by which the service
    would know it again.

    Source: the service's OpenAPI document (https://api.stability.ai/v2alpha/openapi), as in tryAGI/StabilityAI,
    `src/libs/StabilityAI/openapi.yaml` and `CreateStableImageGenerateSd3Request`. All by that documentation, not tried.
    """

    name: ClassVar = "stability"
    title: ClassVar = "Stability AI's Stable Diffusion 3.5"
    capabilities: ClassVar = frozenset(
        ("text_to_image", "image_to_image", "strength", "guidance", "seed", "lossless", "prompt")
    )
    sizes: ClassVar = f"{SIDE_PX}"

    url: str = Field("https://api.stability.ai", description="Address below which v2beta/stable-image/generate/sd3 is.")
    key_env: str | None = Field("STABILITY_API_KEY", description="Environment variable that holds the key.")
    model: Literal["sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash"] = Field(
        "sd3.5-large", description="Which of the service's models is asked."
    )
    resolution_px: int = Field(SIDE_PX, ge=8, le=4096, description=f"Side of the square images: {SIDE_PX} alone.")
    negative_prompt: str | None = Field(
        None, min_length=1, max_length=10_000, description="What images are not to show; none for nothing."
    )

    def offers(self) -> frozenset[Capability]:
        known = super().offers()
        return known - {"image_to_image", "strength"} if self.model in FEW_STEPS else known

    def seed(self, query: Query) -> int:
        """The seed that is sent; never 0, by which the service draws one of its own."""
        return query.seed % SEEDS + 1

    def check(self, kinds: Sequence[Query]) -> None:
        least, most = CFG_SCALES
        for query in kinds:
            if (query.height, query.width) != (SIDE_PX, SIDE_PX):
                raise ConfigError(
                    f"replica.resolution_px: {query.width}, but service {self.name} makes square images of {SIDE_PX} px alone; "
                    f"set {SIDE_PX}"
                )
            if query.guidance is not None and not least <= query.guidance <= most:
                raise ConfigError(
                    f"guidance {query.guidance:g}: service {self.name} takes {least:g} to {most:g}; change the attack's "
                    "`guidance`, or set null for the service's own"
                )

    async def ask(self, query: Query, calls: Calls) -> Made:
        form: dict[str, str | tuple[str, bytes, str]] = {
            "prompt": query.prompt,
            "model": self.model,
            "seed": str(self.seed(query)),
            "output_format": "png",
        }
        if query.guidance is not None:
            form["cfg_scale"] = f"{query.guidance:.12g}"
        if self.negative_prompt is not None:
            form["negative_prompt"] = self.negative_prompt
        return await calls(
            "POST",
            "v2beta/stable-image/generate/sd3",
            _made,
            form=form | _mode(query),
            headers={"Accept": "application/json"},
        )


def _mode(query: Query) -> dict[str, str | tuple[str, bytes, str]]:
    """What tells an image from text and one from an image."""
    if query.image is None or query.strength is None:
        return {"mode": "text-to-image", "aspect_ratio": "1:1"}
    image = ("image.png", png_of(query.image), "image/png")
    return {"mode": "image-to-image", "image": image, "strength": f"{query.strength:.12g}"}


def _made(reply: Reply) -> Made:
    if reply.headers.get("content-type", "").startswith("image/"):
        _require_made(reply.headers.get("finish-reason", "SUCCESS"))
        return Made(reply.content, headers=dict(reply.headers))
    said = reply.json()
    _require_made(str(said["finish_reason"]))
    seed = said.get("seed")
    drawn = {"seed": str(seed)} if isinstance(seed, int | float) else {}
    return Made(base64.b64decode(said["image"], validate=True), headers={**reply.headers, **drawn})


def _require_made(finished: str) -> None:
    """Refuse an image that a filter has blurred, which comes with status 200.

    Raises:
        ServiceError: it is one.
    """
    if finished == "CONTENT_FILTERED":
        raise ServiceError("content_filter", "finish_reason CONTENT_FILTERED: made, and blurred by the service's filter")
    if finished != "SUCCESS":
        raise ServiceError("service_failed", f"finish_reason {finished[:100]}; expected SUCCESS")
