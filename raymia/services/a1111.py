"""The API of AUTOMATIC1111's web UI, and servers that speak it."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from raymia.errors import ConfigError
from raymia.services.calls import Calls, Reply
from raymia.services.hosted import Hosted, Made, png_of
from raymia.services.protocol import Query, ServiceError
from raymia.services.strength import NEAR, TIMESTEPS, Asked, to_ask

Dialect = Literal["a1111", "sdcpp", "xinference"]
SCHEDULERS: dict[Dialect, str] = {"a1111": "Uniform", "sdcpp": "discrete", "xinference": "simple"}
"""Names of the spacing whose noise levels are known. Web UIs older than 1.9 take no name, and space in the same way."""
SIZE_STEP_PX = 8
NOT_ASKED = (
    "Noise multiplier", "Extra noise", "SGM noise multiplier", "Discard penultimate sigma", "Schedule min sigma",
    "Schedule max sigma", "Sigma churn", "Sigma noise", "NGMS", "Refiner", "TI hashes",
)  # fmt: skip
"""What a web UI says of an image where its owner has set other noise, steps or guidance than are asked for."""
SYNTAX = re.compile(r"\bAND\b|\bBREAK\b|<\w+:[^>]*>|</?sd_cpp_extra_args>|:\s*[-+]?(?:\d+\.?|\d*\.\d+)\s*$")
"""What servers read as an order, and no backslash makes them read as words; a number after a colon at the end is a weight."""


class A1111(Hosted):
    """``POST sdapi/v1/txt2img`` and ``img2img`` of AUTOMATIC1111's web UI, of Forge, stable-diffusion.cpp and xinference.

    The first three space the numbers of steps that they are asked for over 999, .., 0, and of these make the last
    ``int(min(strength, .999) x steps) + 1``; what is noised is noised to the first that is made. xinference asks diffusers for
    ``ceil(steps / strength)``. Steps and strength are converted so that as many steps are made as a query says, from the level
    that it says. Two samplers are offered, which add no noise on their way. The web UI's own DDIM is not: its image-to-image
    noises an image to one timestep, tells the model the one below it, and makes two steps fewer than the others. SD.Next takes
    the same calls, but has yet another arithmetic, and is not offered.

    What is not asked for is found in ``info``, where servers say how an image was made: another seed, sampler, number of steps,
    schedule, prompt, or checkpoint, which a web UI leaves as it is without a word where it does not know the name. A sampler
    that a server does not have is a status 400 or 404, or another name in ``info``: `samplers` need not be asked for. Round and
    square brackets are sent with a backslash, as the servers would else weigh the words in them.

    Source: AUTOMATIC1111/stable-diffusion-webui, `modules/api/api.py`, `modules/processing.py`, `modules/prompt_parser.py`,
    `modules/sd_samplers_common.py` (`setup_img2img_steps`), `modules/sd_samplers_kdiffusion.py`,
    `modules/sd_samplers_timesteps_impl.py`; lllyasviel/stable-diffusion-webui-forge, the same files;
    leejet/stable-diffusion.cpp, `examples/server/routes_sdapi.cpp`; xinference 4.1.0, `model/image/sdapi.py`. Tried with
    xinference 4.1.0; the others are as their sources say, not tried.
    """

    name: ClassVar = "a1111"
    title: ClassVar = "The API of AUTOMATIC1111's web UI, which Forge, stable-diffusion.cpp and xinference speak too"
    capabilities: ClassVar = frozenset(
        ("text_to_image", "image_to_image", "strength", "steps", "guidance", "seed", "lossless", "prompt")
    )
    rewrites_prompts: ClassVar = (
        "what it reads as an order (AND, BREAK, <lora:..>, #, a last :1.2); such captions are quarantined"
    )
    sizes: ClassVar = "multiples of 8"

    url: str = Field("http://127.0.0.1:7860", description="Address below which sdapi/v1 is.")
    key_env: str | None = Field(
        None,
        description="Environment variable that holds user:password, of xinference a key; null where none is wanted.",
    )
    dialect: Dialect = Field(
        "a1111",
        description="Whose arithmetic the server has: `a1111` (with Forge), `sdcpp` (stable-diffusion.cpp) or `xinference`.",
    )
    sampler: Literal["Euler", "DPM++ 2M"] = Field("Euler", description="Always asked for by name; Euler's steps are DDIM's.")

    @model_validator(mode="after")
    def _fits_the_dialect(self) -> A1111:
        if self.dialect == "xinference" and self.model is None:
            raise ValueError("model: xinference serves several; name one")
        if self.resolution_px % SIZE_STEP_PX:
            raise ValueError(f"resolution_px: expected a multiple of {SIZE_STEP_PX}, as the servers make no other sizes")
        return self

    def authorization(self, key: str) -> dict[str, str]:
        if self.dialect == "xinference":
            return super().authorization(key)
        return {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}

    def seed(self, query: Query) -> int:
        """The seed that is sent, of 32 bits."""
        return query.seed % 2**32

    def check(self, kinds: Sequence[Query]) -> None:
        for query in kinds:
            self._noise(query)

    async def ask(self, query: Query, calls: Calls) -> Made:
        if order := SYNTAX.search(query.prompt):
            raise ServiceError("prompt_changed", f"not asked: the server would read {order.group()!r} as an order")
        body = self._body(query)
        route = "txt2img" if query.image is None else "img2img"
        return await calls("POST", f"sdapi/v1/{route}", partial(self._made, query, body), json=body)

    def _body(self, query: Query) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": escaped(query.prompt),
            "negative_prompt": "",
            "seed": self.seed(query),
            "subseed_strength": 0.0,
            "width": query.width,
            "height": query.height,
            "sampler_name": self.sampler,
            "scheduler": SCHEDULERS[self.dialect],
            "batch_size": 1,
            "n_iter": 1,
            "override_settings": self._settings(),
            "override_settings_restore_afterwards": True,
            "restore_faces": False,
            "tiling": False,
            "send_images": True,
            "save_images": False,
        }
        if query.guidance is not None:
            body["cfg_scale"] = query.guidance
        if query.image is None:
            body["enable_hr"] = False
        else:
            body |= {"init_images": [base64.b64encode(png_of(query.image)).decode()], "resize_mode": 0}
        return body | self._noise(query)

    def _settings(self) -> dict[str, Any]:
        """The settings of the server that an image depends on, as far as it lets them be set by name in every version."""
        own: dict[str, Any] = {"img2img_fix_steps": False, "img2img_color_correction": False} if self.dialect == "a1111" else {}
        return own if self.model is None else {**own, "sd_model_checkpoint": self.model}

    def _noise(self, query: Query) -> dict[str, Any]:
        """Steps and strength as the server takes them.

        Raises:
            ConfigError: no numbers give what the query says.
        """
        if query.strength is None:
            return {} if query.steps is None else {"steps": query.steps}
        if query.steps is None:
            raise ConfigError("steps: null: from an image this service is told how many; say a number in the attack")
        if self.dialect == "xinference":
            asked = to_ask(query.steps, query.strength, "trailing")
            # Of that it makes ceil(steps / strength), of which diffusers makes int(strength x number): the strength lies so
            # far above steps / number that the first is the number, and the second the steps.
            return {"steps": query.steps, "denoising_strength": query.steps * (1.0 + 0.5 / asked.steps) / asked.steps}
        asked = to_ask_k_diffusion(query.steps, query.strength)
        return {"steps": asked.steps, "denoising_strength": asked.strength}

    def _made(self, query: Query, body: dict[str, Any], reply: Reply) -> Made:
        said = reply.json()
        content = base64.b64decode(said["images"][0], validate=True)
        info = said["info"]
        info = json.loads(info) if isinstance(info, str) else dict(info)
        self._require_as_asked(body, info)
        prompt = info.get("prompt")
        if prompt is not None:
            prompt = query.prompt if prompt == body["prompt"] else str(prompt)
        names = ("sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash", "version")
        told = {name: str(info[name])[:100] for name in names if info.get(name)}
        return Made(content, prompt, {**reply.headers, **told})

    def _require_as_asked(self, body: dict[str, Any], info: dict[str, Any]) -> None:
        """Refuse an image that was made in another way than it was asked for.

        Raises:
            ServiceError: the server says that it was, or does not say of which seed.
        """
        if info.get("seed") is None:
            raise _otherwise("of which seed is not said, as by xinference of a model registered without `model_base`")
        for name in ("seed", "steps", "cfg_scale", "width", "height", "denoising_strength"):
            told = info.get(name)
            if name in body and told is not None and not math.isclose(float(told), body[name], rel_tol=1e-5):
                raise _otherwise(f"{name} {told}, asked for {body[name]}")
        extra = info.get("extra_generation_params") or {}
        pairs = ((info.get("sampler_name"), self.sampler), (extra.get("Schedule type"), SCHEDULERS[self.dialect]))
        for told, asked in pairs:
            if told is not None and _plain(told) != _plain(asked):
                raise _otherwise(f"{told}, asked for {asked}")
        if found := [name for name in NOT_ASKED if name in extra]:
            raise _otherwise(f"by its settings: {found[0]} {extra[found[0]]}; set them back")
        if self.model is not None and not _is_model(self.model, info.get("sd_model_name"), info.get("sd_model_hash")):
            raise _otherwise(f"by checkpoint {info.get('sd_model_name')} [{info.get('sd_model_hash')}], asked for {self.model}")


@cache
def to_ask_k_diffusion(steps: int, level: float) -> Asked:
    """The numbers to send to a server that samples as k-diffusion does over evenly spaced timesteps.

    Args:
        steps: that are to be made.
        level: noise level as a share of the schedule, above 0 and to 1.

    Raises:
        ConfigError: no numbers come near enough to the level.
    """
    t, last = level * TIMESTEPS, TIMESTEPS - 1
    firsts = {number: last * (steps - 1) / (number - 1) for number in range(max(2, steps), max(steps, TIMESTEPS) + 1)}
    number = min(firsts, key=lambda number: (abs(firsts[number] - t), number))
    first = firsts[number]
    if abs(first - t) > NEAR * t:
        raise ConfigError(
            f"timestep {t:.0f} in {steps} steps: evenly spaced ones come no nearer than timestep {first:.0f}; ask for "
            f"{'more' if first < t else 'fewer'} steps"
        )
    return Asked(number, (steps - 0.5) / number, round(first))


def escaped(prompt: str) -> str:
    """A prompt whose brackets are words to a server that reads them as weights."""
    return re.sub(r"([\\()\[\]])", r"\\\1", prompt)


def _otherwise(how: str) -> ServiceError:
    return ServiceError("service_failed", f"the image was not made as it was asked for: {how}")


def _plain(name: Any) -> str:
    return re.sub(r"[\s_]", "", str(name)).lower()


def _is_model(asked: str, name: Any, digest: Any) -> bool:
    """Whether a checkpoint is the one that was asked for by its file, title or hash; one that is not told may be."""
    if not name and not digest:
        return True
    stem, told = (_stem(PurePath(str(one or "").replace("\\", "/")).name) for one in (asked, name))
    return stem == told or (bool(digest) and str(digest) in asked)


def _stem(name: str) -> str:
    return re.sub(r"(\.safetensors|\.ckpt|\.gguf)?( \[\w+\])?$", "", name)
