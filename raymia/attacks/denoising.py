"""Denoising: a model leads the noised latents of a training image back closer to where they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Len
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from raymia.attacks.base import Access, Attack, Evaluations, Signal
from raymia.errors import suggest
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule, clean_from_noise, ddim_move
from raymia.trial.parameters import Guidance, Timestep, Timesteps, distinct, evaluations_per_step, told_under
from raymia.trial.trial import Condition, Trial, mean_squared

Error = Literal["latent", "model", "pixel"]


class Preset(BaseModel):
    """One way to noise and denoise. All noise of a draw is the same, whatever the level it is added at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Timestep = Field(description="Noise level of the latents that denoising starts from.")
    timesteps: Timesteps = Field(description="Timesteps visited, in this order; the model is told that it stands there.")
    step: int = Field(ge=1, description="Each visit makes one DDIM move from t to t - step; below 0, to clean latents.")
    renoised: bool = Field(False, description="At each visit start anew from the original latents, noised to t.")
    guidance: Guidance = Field(1.0, description="Guidance scale of the moves; 1 is none.")
    latent_shift: float = Field(0.0, ge=0, description="Scale of the normal noise added to the latents once, midway.")
    text_shift: float = Field(0.0, ge=0, description="Scale of the normal noise added to the text states.")

    @model_validator(mode="after")
    def _shift_survives(self) -> Self:
        if self.renoised and self.latent_shift:
            raise ValueError("latent_shift has no effect where the latents are noised anew at each visit")
        return self


PARTIAL = {"start": 300, "timesteps": tuple(range(290, 30, -10)), "step": 10, "guidance": 7.5}
FULL = {"timesteps": tuple(range(900, -1, -100)), "step": 100, "guidance": 7.5}
PRESETS = {
    "partial": Preset.model_validate(PARTIAL),
    "partial_renoised": Preset.model_validate({**PARTIAL, "renoised": True}),
    "partial_latent_shift": Preset.model_validate({**PARTIAL, "latent_shift": 1.0}),
    "partial_text_shift": Preset.model_validate({**PARTIAL, "text_shift": 0.1}),
    "partial_wrong_start": Preset.model_validate({**PARTIAL, "start": 100}),
    "full_100": Preset.model_validate({**FULL, "start": 100}),
    "full_300": Preset.model_validate({**FULL, "start": 300}),
    "short_300": Preset.model_validate({**FULL, "start": 300, "timesteps": (200, 100, 0)}),
    "reversed_denoising": Preset(start=100, timesteps=tuple(range(0, 1000, 100)), step=100, guidance=100.0),
    "reversed_noising": Preset(start=100, timesteps=tuple(range(0, 1000, 100)), step=100, renoised=True),
}


def _presets(value: Any) -> Any:
    """Names alone, or a map from name to the fields that differ from the preset of that name, if there is one."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        value = {name: {} for name in value}
    if not isinstance(value, dict):
        return value
    for name, fields in value.items():
        if name not in PRESETS and not fields:
            raise ValueError(f"no preset {name!r}{suggest(str(name), list(PRESETS))}; known are {', '.join(PRESETS)}")
    return {
        name: {**PRESETS[name].model_dump(), **(fields or {})} if name in PRESETS and not isinstance(fields, Preset) else fields
        for name, fields in value.items()
    }


class Denoising(Attack):
    """Minus the error of the running latents against the original, over the timesteps of a preset.

    At each visited t the model predicts the noise and one DDIM move is made. ``latent`` is the mean squared difference
    of the moved latents and z_0; ``model`` the mean squared difference of the noise and its prediction under the caption,
    without guidance; ``pixel`` the mean absolute difference of the decoded latents and the image, on 0..255.
    ``denoising.<preset>.<error>.t=<t>`` is one of them averaged over draws, ``denoising.<preset>.<error>`` their mean
    over t, and ``denoising`` that of the first preset and error. The model error of ``reversed_noising`` is the loss.

    All errors need the model at chosen timesteps, so that the access is grey; what an image-to-image service gives away is
    measured by ``pokemon``. The pixel error decodes at every visit, which costs several times the rest.

    Source: Dubinski et al., Towards More Realistic Membership Inference Attacks on Large Diffusion Models,
    arXiv 2306.12983, section 5 and its appendix.
    """

    name: ClassVar = "denoising"
    access: ClassVar = Access.GREY
    reference: ClassVar = "Dubinski et al. 2023, arXiv 2306.12983"

    presets: Annotated[dict[str, Preset], Len(min_length=1), BeforeValidator(_presets)] = Field(
        {name: PRESETS[name] for name in ("partial", "reversed_noising")},
        description="Names of presets, or a map from name to the fields that differ; the first is primary.",
    )
    errors: Annotated[tuple[Error, ...], Len(min_length=1), AfterValidator(distinct)] = Field(
        ("latent", "model"), description="Errors to measure; the first is primary."
    )
    draws: int = Field(5, ge=1, description="Noise draws.")

    @model_validator(mode="after")
    def _guidance_has_effect(self) -> Self:
        for name, preset in self.presets.items():
            if preset.guidance != 1.0 and not self._moves(preset):
                raise ValueError(
                    f"presets.{name}.guidance: the model error of a renoised preset is taken without guidance, as it is the "
                    "plain loss; leave guidance out, or ask for the latent error"
                )
        return self

    def tells(self) -> frozenset[Ability]:
        asked = frozenset[Ability]().union(*(told_under(preset.guidance) for preset in self.presets.values()))
        return asked | ({"states"} if any(preset.text_shift for preset in self.presets.values()) else set())

    def check(self, schedule: Schedule) -> None:
        for preset in self.presets.values():
            schedule.check(preset.start, *preset.timesteps)

    def signals(self) -> list[Signal]:
        names = ["denoising"]
        for preset, spec in self.presets.items():
            for error in self.errors:
                prefix = f"denoising.{preset}.{error}"
                names += [prefix, *(f"{prefix}.t={t}" for t in spec.timesteps)]
        return [Signal(name, primary=name == "denoising") for name in names]

    def cost(self) -> Evaluations:
        evaluated = {place for name, preset in self.presets.items() for place in self._evaluated(name, preset)}
        visits = sum(len(preset.timesteps) for preset in self.presets.values())
        decodes = visits * self.draws if "pixel" in self.errors else 0
        return Evaluations(forwards=len(evaluated) * self.draws, encodes=1, decodes=decodes)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        for name, preset in self.presets.items():
            found: dict[Error, dict[int, Tensor]] = {error: {} for error in self.errors}
            for t, errors in self._visits(trial, preset):
                for error in self.errors:
                    found[error][t] = -torch.stack(errors[error]).mean(0)
            for error, per_t in found.items():
                prefix = f"denoising.{name}.{error}"
                weights = {t: trial.error_weight(t) if error == "model" else 1.0 for t in per_t}
                scores[prefix] = torch.stack([weights[t] * value for t, value in per_t.items()]).mean(0)
                scores |= {f"{prefix}.t={t}": value for t, value in per_t.items()}
        primary = f"denoising.{next(iter(self.presets))}.{self.errors[0]}"
        return {"denoising": scores[primary], **scores}

    def _moves(self, preset: Preset) -> bool:
        return not preset.renoised or set(self.errors) != {"model"}

    def _evaluated(self, name: str, preset: Preset) -> Iterator[tuple[object, ...]]:
        """What is evaluated per draw: latents, timestep and condition; presets share freshly noised latents."""
        for visit, t in enumerate(preset.timesteps):
            shifted = preset.latent_shift and visit == len(preset.timesteps) // 2
            fresh = preset.renoised or (visit == 0 and not shifted)
            latents = (t if preset.renoised else preset.start,) if fresh else (name, visit)
            for condition in range(evaluations_per_step(preset.guidance) if self._moves(preset) else 1):
                yield latents, t, preset.text_shift, condition

    def _visits(self, trial: Trial, preset: Preset) -> Iterator[tuple[int, dict[Error, list[Tensor]]]]:
        """Each visited timestep with the errors of all draws, which go in step so that the model sees them together."""
        caption, empty = (trial.text(Condition(words=words, shift=preset.text_shift)) for words in (1.0, 0.0))
        noises = [trial.noise(draw) for draw in range(self.draws)]
        chains = [trial.noisy(preset.start, draw) for draw in range(self.draws)]
        for visit, t in enumerate(preset.timesteps):
            if preset.renoised:
                chains = [trial.noisy(t, draw) for draw in range(self.draws)]
            elif preset.latent_shift and visit == len(preset.timesteps) // 2:
                chains = [
                    z + preset.latent_shift * trial.model.noise(trial.latents, trial.seeds(draw, "latent shift"))
                    for draw, z in enumerate(chains)
                ]
            guided = self._moves(preset) and preset.guidance != 1.0
            trial.model.predicted_noises(
                [(z, t, text) for z in chains for text in ((caption, empty) if guided else (caption,))]
            )
            errors: dict[Error, list[Tensor]] = defaultdict(list)
            for draw, z in enumerate(chains):
                errors["model"].append(mean_squared(noises[draw] - trial.model.predicted_noise(z, t, caption)))
                if self._moves(preset):
                    predicted = trial.model.guided_noise(z, t, caption, empty, preset.guidance)
                    below = t - preset.step
                    if below < 0:
                        chains[draw] = clean_from_noise(trial.schedule, z, predicted, t)
                    else:
                        chains[draw] = ddim_move(trial.schedule, z, predicted, t, below)
                    errors["latent"].append(mean_squared(chains[draw] - trial.latents))
                if "pixel" in self.errors:
                    errors["pixel"].append((trial.decode(chains[draw]) - trial.images).abs().flatten(1).mean(1) * 127.5)
            yield t, errors
