"""A scan of a hosted service: what it will cost, the first questions, and what it came to."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import BaseModel

from raymia.attacks.base import Attack
from raymia.config import Job
from raymia.errors import ConfigError
from raymia.run.record import CallCounts, Paid, ServiceRecord
from raymia.scan.asked import images_asked, kinds_of
from raymia.services.gate import Gate, OwnTurns
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


def bill_of(job: Job, samples: int | None, asks_first: bool = True) -> Bill:
    """What the whole scan of a job costs that attacks a service.

    Args:
        job: of the scan.
        samples: that will be scored; none where that is not known.
        asks_first: whether first questions are asked, as before a scan.
    """
    service = job.hosted
    assert service is not None
    each = images_asked(job.attacks, service)
    kinds = kinds_of(job.attacks, service.resolution_px) if asks_first and isinstance(service, Hosted) else []
    first = len(kinds) + 1 if kinds else 0
    images = None if samples is None else each * samples + first
    price = service.price()
    total = None if price is None or images is None else price * images
    currency = service.currency if isinstance(service, Hosted) else None
    return Bill(images_per_sample=each, first_images=first, images=images, price=total, currency=currency)


def require_affordable(job: Job, samples: int | None, asks_first: bool = True) -> None:
    """Refuse a job over its budget, and one whose service cannot make the images that its attacks ask for.

    Args:
        job: of the scan.
        samples, asks_first: see `bill_of`.

    Raises:
        ConfigError: names the budget or the attack.
    """
    service = job.hosted
    if service is None:
        return
    service.check(kinds_of(job.attacks, service.resolution_px))
    if not isinstance(service, Hosted):
        return
    bill = bill_of(job, samples, asks_first)
    if service.budget is not None and bill.price is not None and bill.price > service.budget * (1 + 1e-9):
        raise ConfigError(
            f"replica.budget: {service.budget:,.2f} {service.currency}, but the scan asks for {bill.images:,} images, which "
            f"cost {bill.price:,.2f} at {service.price_per_image:g} each; raise it, or take fewer samples, draws or attacks"
        )


def gate_of(job: Job, service: Hosted, record: ServiceRecord | None) -> Gate:
    """The gate before a service, with what is left of the budget.

    Args:
        job: of the scan.
        service: that is asked.
        record: what is known of the scan's questions.
    """
    images = service.kept(job.run).images()
    return service.gate((None if record is None else record.spent_on(images)) or 0.0)


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
    kinds = kinds_of(job.attacks, service.resolution_px)
    answers = service.kept(job.run)
    record = ServiceRecord(price_per_image=service.price_per_image, currency=service.currency)
    record.earlier = _at_other_prices(before, record, answers.images())
    turns = OwnTurns(gate_of(job, service, record))
    asker = Asker(service, answers, turns, None)
    try:
        if kinds:
            one, other = asker.ask_first(kinds)
            record.repeats, record.difference = bool((one == other).all()), round(float((one - other).abs().mean()) / 2.0, 6)
    except ServiceError as error:
        failed = error.reason == "service_failed"
        advice = "whether it is up and does as it is asked" if failed else "which sizes, steps and strengths it takes"
        raise ConfigError(
            f"replica: service {service.service} does not answer a first question ({error}); see {advice}, and correct the job "
            "or the service"
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


def _at_other_prices(before: ServiceRecord | None, now: ServiceRecord, images: int) -> list[Paid]:
    """The images that were made before the price changed, at what they cost."""
    if before is None:
        return []
    if before.price_per_image is None or before.price_per_image == now.price_per_image:
        return before.earlier
    fresh = images - sum(paid.images for paid in before.earlier)
    return [*before.earlier, Paid(images=fresh, price_per_image=before.price_per_image)]


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
    told = {"calls": begun.calls + calls, "refusals": answers.refusals(), "images": images}
    return begun.model_copy(update={**told, "spent": begun.spent_on(images)})


def possible(attacks: Mapping[str, Attack], offered: frozenset[Capability]) -> list[str]:
    """Names of the attacks that can be run on a service which offers this, as far as they leave to it what it is not told."""
    return [name for name, attack in attacks.items() if attack.asks() and attack.as_offered(offered).asks() <= offered]
