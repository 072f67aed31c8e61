"""Everything about a scan that can be checked before Ray starts and before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from raymia.attacks.base import Attack, signal_key
from raymia.config import Job, ReferenceConfig, as_it_was_meant, differences, without_free
from raymia.data.clusters import load_clusters
from raymia.data.manifest import Manifest, labels_hold, load_manifest
from raymia.data.selection import ShardReader, selection_digest, shard_readers
from raymia.data.shapes import Shapes
from raymia.digests import file_digest
from raymia.errors import ConfigError
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.schedule import Schedule, level_names
from raymia.run.ledger import Ledger
from raymia.run.record import FORMAT, RUN_FILE, ScanRecord, SignalRecord
from raymia.scan.calibration import calibrated_signal, calibrates
from raymia.scan.cost import works_on_images
from raymia.scan.latents import TRANSFORM, LatentCache
from raymia.scan.service import require_affordable
from raymia.scan.told import caveats, require_told, shapes_of
from raymia.shipped import clip_folder, model_folder
from raymia.urls import without_secrets

log = logging.getLogger(__name__)

SAME_SIGMA = 1e-4
"""What the noise of two models at one level may differ by, as rounding of their configs does."""


@dataclass(frozen=True)
class ScanPlan:
    """A job whose parts were found and fit together."""

    job: Job
    manifest: Manifest
    readers: list[ShardReader]
    folder: PipelineFolder | None
    """Of the attacked model; none where a service is attacked."""
    schedule: Schedule
    clusters: pa.Table | None
    """Near-duplicates, where the manifest names them; see `raymia.data.clusters`."""
    signals: list[SignalRecord]
    shapes: Shapes
    """That images are resized to."""
    latent_cache: LatentCache | None
    """Where latents are kept, where the job says so."""

    @property
    def expected(self) -> int | None:
        """Samples in all, where the manifest announces them for every split."""
        return self.manifest.samples

    @property
    def signal_names(self) -> list[str]:
        """Score columns in order."""
        return [signal.name for signal in self.signals]

    @cached_property
    def pinned(self) -> Job:
        """The job with the revisions that were checked, which a hub's newest need not be when replicas load."""
        changed: dict[str, Any] = {}
        if self.folder is not None and self.folder.revision is not None:
            changed["replica"] = self.job.model.model_copy(update={"revision": self.folder.revision})
        if isinstance(self.job.reference, ReferenceConfig) and self._reference is not None:
            changed["reference"] = self.job.reference.model_copy(update={"revision": self._reference.revision})
        if self.job.clip is not None:
            from raymia.features import clip

            # A folder is named as the job names it: where a package lies differs from node to node.
            given = clip_folder(self.job.clip)
            pinned = clip.pinned(given)
            if pinned != given:
                changed["clip"] = pinned
        if self._copies is not None:
            from raymia.features import copies

            pinned = copies.pinned(self._copies)
            if pinned != self._copies:
                changed["copies"] = pinned
        return self.job.model_copy(update=changed) if changed else self.job

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run it resumes; reads all weights, hence once."""
        manifest = self.manifest.model_dump(mode="json")
        shards = [reader.shard.model_dump() for reader in self.readers]
        errors = "noise" if self.schedule.prediction_type == "epsilon" else "velocity"
        model = {
            "fingerprint": self._fingerprint(),
            "errors": errors,
            "reference": None if self._reference is None else self._reference.fingerprint(),
            **self._beside(),
        }
        parts = {
            "job": self.job.identity(),
            "manifest": manifest,
            "shards": shards,
            "selection": selection_digest(self.readers),
            "model": model,
        }
        return dict(without_secrets(parts))

    @cached_property
    def _reference(self) -> PipelineFolder | None:
        """The model that scores are held against, with its weights; none where it is no model of its own."""
        other = self.job.reference_job()
        if other is None:
            return None
        return find_pipeline(model_folder(other.model.model), True, other.model.revision, other.model.said())

    @property
    def _copies(self) -> str | None:
        """The copy detector, where an attack looks for copies."""
        return self.job.copies if "copies" in self.job.needs() else None

    def _beside(self) -> dict[str, str | None]:
        """What identifies the models that signals compare by."""
        found: dict[str, str | None] = {"clip": None, "lpips": None, "copies": None}
        # open_clip and lpips take seconds to import, which most jobs need not spend.
        if self.pinned.clip is not None:
            from raymia.features import clip

            found["clip"] = clip.fingerprint(clip_folder(self.pinned.clip))
        if "lpips" in self.job.needs():
            from raymia.features import lpips

            found["lpips"] = lpips.fingerprint(self.job.lpips.net, self.job.lpips.trunk)
        if self._copies is not None and self.pinned.copies is not None:
            from raymia.features import copies

            found["copies"] = copies.fingerprint(self.pinned.copies, found["clip"])
        return found

    def _fingerprint(self) -> str:
        """What identifies the attacked model or service."""
        if self.job.hosted is not None:
            return self.job.hosted.fingerprint()
        assert self.folder is not None
        model = self.folder.fingerprint()
        adapters = [file_digest(adapter.file) for adapter in self.job.model.options().adapters]
        return model if not adapters else hashlib.sha256("\n".join([model, *adapters]).encode()).hexdigest()


def make_plan(job: Job) -> ScanPlan:
    """Check a job against its manifest, model and attacks.

    Raises:
        ConfigError: names the field, what was expected and what to do.
    """
    manifest, folder = load_manifest(job.manifest)
    readers = make_readers(job, manifest, folder)
    pipeline, schedule = attacked(job)
    shapes = shapes_of(job, pipeline)
    if not (job.labels_do_not_hold or hold(manifest, job)):
        raise ConfigError(
            f"manifest {job.manifest}: its labels hold for {', '.join(manifest.valid_for_models)}, not for replica.model "
            f"{job.subject}, so that members need not be members; scan a model that they hold for, or add "
            "--labels-do-not-hold to scan nevertheless"
        )
    check_attacks(job, pipeline, schedule)
    require_affordable(job, manifest.samples)
    for caveat in [] if pipeline is None else caveats(job, pipeline):
        log.warning("%s", caveat)
    signals = signals_of(job, () if pipeline is None else pipeline.family.groups)
    _check_reference(job, pipeline, schedule)
    # open_clip and lpips take seconds to import, which most jobs need not spend.
    if job.clip is not None:
        from raymia.features.clip import check_clip

        check_clip(clip_folder(job.clip))
    if "lpips" in job.needs():
        from raymia.features.lpips import load_trunk

        load_trunk(job.lpips.net, job.lpips.trunk)
    if job.copies is not None and "copies" in job.needs():
        from raymia.features.copies import check_copies

        check_copies(job.copies)
    return ScanPlan(
        job=job,
        manifest=manifest,
        readers=readers,
        folder=pipeline,
        schedule=schedule,
        clusters=load_clusters(manifest, folder),
        signals=signals,
        latent_cache=_latent_cache(job, pipeline, schedule, shapes),
        shapes=shapes,
    )


def make_readers(job: Job, manifest: Manifest, folder: str) -> list[ShardReader]:
    """Readers of a job's shards.

    Args:
        job: with its limits.
        manifest, folder: see `raymia.data.manifest.load_manifest`.

    Raises:
        ConfigError: the manifest names no shards.
    """
    limits = job.limits
    return shard_readers(manifest, folder, limits.of_shards(), limits.elsewhere(), limits.max_shards)


def hold(manifest: Manifest, job: Job) -> bool:
    """Whether a manifest's labels hold for what a job attacks: a model, or the one that a service calls so.

    Members of a model's training set are a tuned model's, too.
    """
    return any(labels_hold(manifest, name) for name in (job.subject, job.replica.model) if name is not None)


def check_attacks(job: Job, pipeline: PipelineFolder | None, schedule: Schedule) -> None:
    """Refuse attacks, and options of the replica, that mean nothing to what is attacked.

    Args:
        pipeline, schedule: of what is attacked, as `attacked` finds them.

    Raises:
        ConfigError: names the field or the attack.
    """
    if pipeline is not None:
        require_told(job, pipeline)
    for name, attack in job.attacks.items():
        try:
            attack.check(schedule)
        except ConfigError as error:
            raise ConfigError(f"attacks.{name}: {error}") from error


def attacked(job: Job) -> tuple[PipelineFolder | None, Schedule]:
    """The folder of the attacked model and its schedule; of a service none, and the schedule that names the levels."""
    if job.hosted is not None:
        return None, level_names()
    # The cache of latents is found by the autoencoder's weights, which of a hub id must be here.
    with_weights = job.latent_cache is not None
    folder = find_pipeline(model_folder(job.model.model), with_weights, job.model.revision, job.model.said())
    return folder, folder.schedule(job.model.timesteps)


def require_same(ledger: Ledger, plan: ScanPlan) -> ScanRecord | None:
    """The record of the run that is to be resumed; none for a new run.

    Raises:
        ConfigError: the run was made by another job, and names the fields that differ; or by another version of raymia.
    """
    if ledger.read_run() is None:
        return None
    before = ledger.require_scan()
    if before.format != FORMAT:
        raise ConfigError(
            f"{ledger.run}/{RUN_FILE}: format {before.format}, where this version of raymia writes format {FORMAT}: finish the "
            "run with the version that began it, or choose another run directory with --run"
        )
    # What an earlier version left of an address is cleaned as this one does.
    content = without_secrets(before.model_dump(mode="json"))
    content["job"] = without_free(as_it_was_meant(content["job"]))
    changed = differences({key: content.get(key) for key in plan.identity}, plan.identity)
    if changed:
        raise ConfigError(
            f"{ledger.run}/{RUN_FILE}: this run was made by another job; "
            f"restore these fields or choose another run directory: {'; '.join(changed)}"
        )
    _require_same_signals(f"{ledger.run}/{RUN_FILE}", before, plan)
    return before


def _require_same_signals(place: str, before: ScanRecord, plan: ScanPlan) -> None:
    """Refuse to go on with a run whose attacks, under the same parameters, had other signals in an earlier version."""
    had = {signal.name for signal in before.signals}
    other = sorted(had ^ set(plan.signal_names))
    if other:
        raise ConfigError(
            f"{place}: was begun by a version of raymia whose attacks have other signals ({', '.join(other[:5])}"
            f"{', ..' if len(other) > 5 else ''}): finish the run with that version, or choose another run directory with --run"
        )


def _latent_cache(job: Job, pipeline: PipelineFolder | None, schedule: Schedule, shapes: Shapes) -> LatentCache | None:
    """The cache that a job names, for its model."""
    if job.latent_cache is None or pipeline is None:
        return None
    side = job.replica.resolution_px
    sizes = side if len(shapes.sizes) == 1 else shapes.sizes
    parts = [TRANSFORM, sizes, job.max_pixels, pipeline.autoencoder_digest()]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    on_images = [name for name, attack in job.attacks.items() if works_on_images(attack, schedule)]
    on_images += ["clip"] if job.clip is not None else []
    if on_images:
        log.info("latent_cache: images are decoded all the same, for %s", ", ".join(on_images))
    channels, height, _ = pipeline.latent_shape(side)
    return LatentCache(job.latent_cache, key, channels, side // height, shapes, bool(on_images))


def _check_reference(job: Job, pipeline: PipelineFolder | None, schedule: Schedule) -> None:
    """Refuse a reference that is none of the attacked model's."""
    if job.reference is None or pipeline is None:
        return
    other = job.reference_job()
    if other is None:
        if not job.model.adapters:
            raise ConfigError(
                "reference: base is the model without its adapters, and replica.adapters are none; give reference: {model: ..}"
            )
        return
    if job.model.text == "stage":
        raise ConfigError("reference.model: goes with replica.text: resident or offload; leave one of them out")
    found = find_pipeline(model_folder(other.model.model), False, other.model.revision, other.model.said())
    if found.family.name != pipeline.family.name:
        raise ConfigError(
            f"reference.model {other.subject}: of the family {found.family.name}; expected {pipeline.family.name}, as "
            "replica.model"
        )
    theirs, levels = found.schedule(other.model.timesteps), range(0, schedule.timesteps, max(1, schedule.timesteps // 20))
    alike = theirs.timesteps == schedule.timesteps and theirs.prediction_type == schedule.prediction_type
    if not alike or any(abs(theirs.sigma(t) - schedule.sigma(t)) > SAME_SIGMA for t in levels):
        raise ConfigError(
            f"reference.model {other.subject}: has another noise schedule or prediction type than replica.model, so that the "
            "same noise is another question"
        )
    require_told(other, found)


def signals_of(job: Job, groups: Sequence[str]) -> list[SignalRecord]:
    """The signals of a job's attacks, in front of a denoiser whose parameters have these groups; then the calibrated ones."""
    signals = [signal for name, attack in job.attacks.items() for signal in described(name, attack, groups)]
    if job.reference is None:
        return signals
    again = {key for key, attack in job.attacks.items() if calibrates(attack)}
    return signals + [calibrated_signal(signal) for signal in signals if signal.attack in again]


def described(key: str, attack: Attack, groups: Sequence[str]) -> list[SignalRecord]:
    """The signals of an attack that the job calls `key`, in front of a denoiser whose parameters have these groups."""
    return [
        SignalRecord(
            name=signal_key(signal.name, attack, key),
            attack=key,
            access=str(attack.access),
            primary=signal.primary,
            cost=attack.cost(),
        )
        for signal in [*attack.signals(), *attack.signals_by_group(groups)]
    ]
