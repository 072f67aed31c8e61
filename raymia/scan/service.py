"""A scan of a hosted service: what it will cost, the first questions, and what it came to."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import BaseModel

from raymia.attacks.base import Attack
from raymia.config import Job
from raymia.errors import ConfigError
from raymia.run.record import CallCounts, ServiceRecord
from raymia.scan.asked import images_asked, kinds_of
from raymia.services.gate import OwnTurns
from raymia.services.hosted import Asker, Hosted
from raymia.services.protocol import Capability, ServiceError

log = logging.getLogger(__name__)


class Bill(BaseModel):
    """What a scan asks of a service and what that costs.

    Attributes:
        images_per_sample: that are asked for.
        first_images: that are asked for before the scan: one of every kind, and one of them again.
        images: in all; none where the manifest announces no number of samples.
        price: of all of them; none where it is not known.
        currency: of the price.
    """

    images_per_sample: int
    first_images: int
    images: int | None
    price: float | None
    currency: str | None


def bill_of(job: Job, samples: int | None) -> Bill:
    """What the whole scan of a job costs that attacks a service."""
    service = job.hosted
    assert service is not None
    each = images_asked(job.attacks, service)
    kinds = kinds_of(job.attacks, service.resolution_px) if isinstance(service, Hosted) else []
    first = len(kinds) + 1 if kinds else 0
    images = None if samples is None else each * samples + first
    price = service.price()
    total = None if price is None or images is None else price * images
    currency = service.currency if isinstance(service, Hosted) else None
    return Bill(images_per_sample=each, first_images=first, images=images, price=total, currency=currency)


def require_affordable(job: Job, samples: int | None) -> None:
    """Refuse a job over its budget, and one whose service cannot make the images that its attacks ask for.

    Raises:
        ConfigError: names the budget or the attack.
    """
    service = job.hosted
    if service is None:
        return
    service.check(kinds_of(job.attacks, service.resolution_px))
    if not isinstance(service, Hosted):
        return
    bill = bill_of(job, samples)
    if service.budget is not None and bill.price is not None and bill.price > service.budget * (1 + 1e-9):
        raise ConfigError(
            f"replica.budget: {service.budget:,.2f} {service.currency}, but the scan asks for {bill.images:,} images, which "
            f"cost {bill.price:,.2f} at {service.price_per_image:g} each; raise it, or take fewer samples, draws or attacks"
        )


def images_kept(job: Job, service: Hosted) -> int:
    """Images that the service has made for this scan and those that share its answers."""
    return service.kept(job.run).images()


def ask_first(job: Job, service: Hosted, before: ServiceRecord | None) -> ServiceRecord:
    """Ask a question of every kind that the attacks will, and one of them twice, before anything else is begun.

    So a key, an address, a size or a number of steps that the service does not take ends the scan before it begins, and it is
    known whether answers repeat. The answers are kept as all others are: a resumed scan asks nothing.

    Args:
        job: of the scan.
        service: that is asked.
        before: what earlier attempts came to.

    Returns:
        What is known of the scan's questions when it begins.

    Raises:
        ConfigError: the service does not make such an image; says what it said.
        ServiceStoppedError: it cannot be asked at all.
    """
    answers = service.kept(job.run)
    turns = OwnTurns(service.gate(answers.images()))
    asker = Asker(service, answers, turns, None)
    kinds = kinds_of(job.attacks, service.resolution_px)
    record = ServiceRecord(price_per_image=service.price_per_image, currency=service.currency)
    try:
        if kinds:
            one, other = asker.ask_first(kinds)
            record.repeats, record.difference = bool((one == other).all()), round(float((one - other).abs().mean()) / 2.0, 6)
    except ServiceError as error:
        raise ConfigError(
            f"replica: service {service.service} does not answer a first question ({error}); see which sizes, steps and "
            "strengths it takes, and correct the job"
        ) from error
    if record.repeats is False:
        log.warning(
            "service %s: one question asked twice had two answers (mean difference %.4f of the range)%s; scores repeat by the "
            "answers that are kept, and not by asking again",
            service.service,
            record.difference,
            ", though it takes a seed" if "seed" in service.offers() else ", as it takes no seed",
        )
    record.calls = turns.counted() + (CallCounts() if before is None else before.calls)
    return record


def summed_up(job: Job, service: Hosted, begun: ServiceRecord, calls: CallCounts) -> ServiceRecord:
    """What the scan came to.

    Args:
        job: of the scan.
        service: that was asked.
        begun: what was known when it began.
        calls: since then.
    """
    answers = service.kept(job.run)
    images = answers.images()
    spent = None if service.price_per_image is None else round(images * service.price_per_image, 6)
    return begun.model_copy(
        update={"calls": begun.calls + calls, "refusals": answers.refusals(), "images": images, "spent": spent}
    )


def possible(attacks: Mapping[str, Attack], offered: frozenset[Capability]) -> list[str]:
    """Names of the attacks that can be run on a service which offers this, as far as they leave to it what it is not told."""
    return [name for name, attack in attacks.items() if attack.asks() and attack.as_offered(offered).asks() <= offered]
