"""Generation: from its caption alone, the model makes images closer to one that it was trained on."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from raymia.attacks.base import Access, Evaluations, FromCaption, Need, Shown, Signal
from raymia.trial.parameters import Guidance, Steps
from raymia.trial.similarity import Metric, needs_of, similarity
from raymia.trial.trial import Trial


class Generation(FromCaption):
    """Mean similarity of x and n images generated from its caption; ``generation.max`` is the closest one's.

    Only images that the model can reproduce from their captions stand out; a sample without a caption is compared with
    images of nothing in particular.

    Source: Wu et al., Membership Inference Attacks Against Text-to-image Generation Models, arXiv 2210.00968;
    extraction by generation: Carlini et al., arXiv 2301.13188, section 4.
    """

    name: ClassVar = "generation"
    access: ClassVar = Access.BLACK
    reference: ClassVar = "Wu et al. 2022, arXiv 2210.00968"
    exhibits: ClassVar = True

    images: int = Field(3, ge=1, description="n: images generated per caption.")
    steps: Steps | None = Field(30, description="Denoising steps of each; null leaves them to a service.")
    guidance: Guidance | None = Field(7.5, description="Classifier-free guidance scale; 1 is none, null the service's own.")
    metric: Metric = Field("clip", description="Similarity measure.")

    def needs(self) -> frozenset[Need]:
        return needs_of((self.metric,))

    def signals(self) -> list[Signal]:
        return [Signal("generation", primary=True), Signal("generation.max")]

    def cost(self) -> Evaluations:
        return self.cost_of(self.images)

    def score(self, trial: Trial) -> dict[str, Tensor]:
        alike = self._alike(trial)
        return {"generation": alike.mean(1), "generation.max": alike.amax(1)}

    def shown(self, trial: Trial) -> Shown:
        alike = self._alike(trial)
        best = alike.argmax(1).tolist()
        images = torch.stack([self._image(trial, draw)[place] for place, draw in enumerate(best)])
        return Shown(images=images, draws=best, steps=self.steps, guidance=self.guidance, similarity=alike.amax(1))

    def _image(self, trial: Trial, draw: int) -> Float[Tensor, "batch 3 H W"]:
        return trial.text_to_image(draw, self.steps, self.guidance)

    def _alike(self, trial: Trial) -> Float[Tensor, "batch images"]:
        """Similarity of each sample and the images of its caption."""
        made = [self._image(trial, draw) for draw in range(self.images)]
        return torch.stack([similarity(trial, self.metric, images) for images in made], dim=1)
