"""Extraction: told a work's caption, the model gives the work back."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Evaluations, FromCaption, Need, Shown, Signal
from raymia.trial.matches import WHOLE, largest_cluster, windows
from raymia.trial.parameters import Guidance, Steps
from raymia.trial.trial import Trial


class Extraction(FromCaption):
    """Highest similarity of x and n images generated from its caption, by a copy detector.

    ``extraction.mean`` is the mean over the images; ``extraction.cluster`` the size of the largest set of them that are
    near-identical to one another: a model that has a work by heart gives the same image whatever the noise, and no work is
    needed to see that.

    Source: Carlini et al., Extracting Training Data from Diffusion Models, arXiv 2301.13188, section 4; with SSCD as the
    detector: Somepalli et al., Diffusion Art or Digital Forgery?, arXiv 2212.03860.
    """

    name: ClassVar = "extraction"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "Carlini et al. 2023, arXiv 2301.13188"
    exhibits: ClassVar = True
    shows: ClassVar = True

    draws: int = Field(10, ge=1, le=500, description="n: images generated per caption, each from a seed of its own.")
    steps: Steps | None = Field(50, description="Denoising steps of each; null leaves them to a service.")
    guidance: Guidance | None = Field(7.5, description="Classifier-free guidance scale; 1 is none, null the service's own.")
    near: float = Field(0.75, gt=-1, le=1, description="Similarity from which on two images of one caption are near-identical.")

    def needs(self) -> frozenset[Need]:
        return frozenset(("copies",))

    def signals(self) -> list[Signal]:
        return [Signal("extraction", primary=True), Signal("extraction.mean"), Signal("extraction.cluster")]

    def cost(self) -> Evaluations:
        return self.cost_of(self.draws)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        answers = self._answers(trial)
        alike = _alike(trial, answers)
        clusters = [largest_cluster(own.double().cpu().numpy(), self.near) for own in answers]
        cluster = torch.tensor(clusters, dtype=alike.dtype, device=alike.device)
        return {"extraction": alike.amax(1), "extraction.mean": alike.mean(1), "extraction.cluster": cluster}

    def shown(self, trial: Trial) -> Shown:
        answers = self._answers(trial)
        alike = _alike(trial, answers)
        best = alike.argmax(1).tolist()
        images = torch.stack([self._image(trial, draw)[place] for place, draw in enumerate(best)])
        work = trial.descriptor(trial.images)
        answer = answers[torch.arange(len(best)), best]
        return Shown(
            images=images,
            draws=best,
            steps=self.steps,
            guidance=self.guidance,
            similarity=alike.amax(1),
            within_work=_place(trial, trial.images, answer, alike.amax(1)),
            within_image=_place(trial, images, work, alike.amax(1)),
            work=work,
            answers=answers,
        )

    def _image(self, trial: Trial, draw: int) -> Float[Tensor, "batch 3 H W"]:
        return trial.text_to_image(draw, self.steps, self.guidance)

    def _answers(self, trial: Trial) -> Float[Tensor, "batch draws width"]:
        """Descriptors of what each caption brought forth."""
        return torch.stack([trial.descriptor(self._image(trial, draw)) for draw in range(self.draws)], dim=1)


def _alike(trial: Trial, answers: Tensor) -> Float[Tensor, "batch draws"]:
    """Similarity of each work and the images of its caption."""
    alike: Tensor = (answers * trial.descriptor(trial.images)[:, None]).sum(2)
    return alike


def _place(trial: Trial, images: Tensor, other: Tensor, whole: Tensor) -> list[tuple[str, float]]:
    """The part of each image that is most like another image's descriptor, by its word, and how alike; or the whole."""
    parts = {word: (trial.descriptor(crop) * other).sum(1) for word, crop in windows(images).items()}
    words, alike = [WHOLE, *parts], torch.stack([whole, *parts.values()])
    return [(words[int(place)], float(value)) for place, value in zip(alike.argmax(0), alike.amax(0), strict=True)]
