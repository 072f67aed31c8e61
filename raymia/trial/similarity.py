"""How alike two images look, by the measures that black-box attacks compare with."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Len
from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor

from raymia.trial.parameters import distinct
from raymia.trial.trial import Trial

Need = Literal["clip", "lpips", "copies"]
"""A model beside the attacked one."""
Metric = Literal["ssim", "clip", "lpips"]
Metrics = Annotated[tuple[Metric, ...], Len(min_length=1), AfterValidator(distinct)]
"""One or more distinct measures."""


def similarity(trial: Trial, metric: Metric, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, " batch"]:
    """Similarity of the trial's images and `images`, one value per sample; the higher, the more alike.

    ``ssim``: structural similarity (Wang et al. 2004; 11 px Gaussian window, range 2), 1 for identical images.
    ``clip``: cosine of CLIP image embeddings, 1 for identical images.
    ``lpips``: minus the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), 0 for identical images.
    """
    if metric == "clip":
        return (trial.embedding(trial.images) * trial.embedding(images)).sum(1)
    if metric == "lpips":
        return -trial.lpips(images)
    # It takes seconds to import, which most replicas need not spend.
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim = structural_similarity_index_measure(images, trial.images, data_range=2.0, reduction="none")
    assert isinstance(ssim, Tensor)
    return ssim


def needs_of(metrics: Metrics) -> frozenset[Need]:
    """The models that these measures compare with."""
    return frozenset(metric for metric in metrics if metric != "ssim")
