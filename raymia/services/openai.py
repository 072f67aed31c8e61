"""OpenAI's images API, and servers that speak it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from raymia.services.calls import Calls, PassingError, Reply
from raymia.services.hosted import Hosted, Made, png_of
from raymia.services.protocol import Capability, Query, ServiceError, ServiceStoppedError
from raymia.services.strength import Spacing, to_ask

USED_UP = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes by which OpenAI says that no call will be answered, whatever is asked."""


class OpenAI(Hosted):
    """``POST images/generations`` of api.openai.com, or of a server of one's own that has it.

    OpenAI itself takes a prompt and a size alone. Servers that speak its interface often take more under names of their own:
    `extensions` says which are known to be. Source: openai-python 3.57, `types/image_generate_params.py`; museq 0.60.2,
    `muse/modalities/image_generation/routes.py`.
    """

    name: ClassVar = "openai"
    title: ClassVar = "OpenAI's images API, or a server that speaks it"
    capabilities: ClassVar = frozenset(
        ("text_to_image", "image_to_image", "strength", "steps", "guidance", "seed", "lossless", "prompt")
    )
    rewrites_prompts: ClassVar = "dall-e-3 always, and says so; its images are quarantined as prompt_changed"
    sizes: ClassVar = "of OpenAI's models by their lists, such as 1024; of other servers what they take"

    url: str = Field("https://api.openai.com/v1", description="Address below which images/generations is.")
    key_env: str | None = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key; null for a server that wants none."
    )
    extensions: Literal["none", "muse"] = Field(
        "none",
        description="What the server takes beside OpenAI's fields: `muse` seed, steps, guidance, image and strength.",
    )
    spacing: Spacing = Field(
        "leading", description="Of the server's sampler, with muse: `timestep_spacing` of its config; `share` if not known."
    )
    quality: str | None = Field(None, description="As the service takes it, such as high; none for its own.")

    def offers(self) -> frozenset[Capability]:
        known = super().offers()
        return known if self.extensions == "muse" else known & {"text_to_image", "lossless", "prompt"}

    def check(self, kinds: Sequence[Query]) -> None:
        for query in kinds:
            self._noise(query)

    async def ask(self, query: Query, calls: Calls) -> Made:
        body: dict[str, Any] = {"prompt": query.prompt, "n": 1, "size": f"{query.width}x{query.height}"}
        if self.model is not None:
            body["model"] = self.model
        if self.quality is not None:
            body["quality"] = self.quality
        body |= {"output_format": "png"} if self.extensions == "none" else self._extended(query)
        return await calls("POST", "images/generations", _made, json=body)

    def _extended(self, query: Query) -> dict[str, Any]:
        body: dict[str, Any] = {"response_format": "b64_json", "seed": self.seed(query)}
        if query.guidance is not None:
            body["guidance"] = query.guidance
        if query.image is not None:
            body["image"] = f"data:image/png;base64,{base64.b64encode(png_of(query.image)).decode()}"
        return body | self._noise(query)

    def _noise(self, query: Query) -> dict[str, Any]:
        """Steps and strength as the server takes them."""
        if query.strength is None or query.steps is None:
            said = {"steps": query.steps, "strength": query.strength}
            return {name: value for name, value in said.items() if value is not None}
        asked = to_ask(query.steps, query.strength, self.spacing)
        return {"steps": asked.steps, "strength": asked.strength}

    def verdict(self, reply: Reply) -> ServiceError | ServiceStoppedError | None:
        if _codes(reply) & set(USED_UP):
            return ServiceStoppedError("what the key pays for is used up; pay, or set another key")
        return super().verdict(reply)


def _codes(reply: Reply) -> set[str]:
    """The words by which the service names an error to programs; what it says to people may hold the prompt."""
    try:
        error = reply.json()["error"]
        return {str(error.get(name)) for name in ("code", "type")}
    except (AttributeError, LookupError, PassingError):
        return set()


def _made(reply: Reply) -> Made:
    said = reply.json()
    one = said["data"][0]
    usage = said.get("usage")
    counted = {"tokens": str(usage.get("total_tokens"))} if isinstance(usage, dict) else {}
    prompt = one.get("revised_prompt")
    return Made(base64.b64decode(one["b64_json"], validate=True), prompt and str(prompt), {**reply.headers, **counted})
