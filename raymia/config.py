"""Job files: what to scan, with which replica and attacks, on what pool."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from raymia.attacks.base import ATTACKS, Access, Attack, Evaluations, Need
from raymia.data.images import MAX_PIXELS
from raymia.data.members import ReadLimits
from raymia.data.remote import RemoteLimits
from raymia.documents import DocumentError, parse_yaml, read_document
from raymia.errors import ConfigError, describe_validation
from raymia.replica.adapters import Adapter, find_adapter
from raymia.replica.families import LoadOptions, TextPlace
from raymia.replica.quantised import Weights
from raymia.replica.schedule import Naming
from raymia.replica.single_file import PredictionType, Said
from raymia.run.record import CONTROL, copy_detector, served_name, tuned_name
from raymia.services.protocol import SERVICES, Service
from raymia.shipped import adapter_file

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
CaptionSource = Literal["own", "shuffled", "empty"]
MOST = 2**31 - 1
"""No count of a job is larger."""
VARIANT = re.compile(r"[A-Za-z0-9_.=+-]+")
"""What may stand behind an attack's colon: signals, columns and files are named by it."""


def _printable(text: str) -> str:
    """Refuse a name with control characters, and an empty one: no file, URL or model has such a name."""
    if not text.strip():
        raise ValueError("expected a name")
    if any(not character.isprintable() for character in text):
        raise ValueError("expected a name without control characters")
    return text


Place = Annotated[str, AfterValidator(_printable)]
"""A path, a URL or a name."""


def _no_booleans(kind: type[BaseModel], values: object) -> object:
    """Refuse `true` where a number is expected, which pydantic takes for 1."""
    for name, value in values.items() if isinstance(values, dict) else ():
        field = kind.model_fields.get(name)
        if isinstance(value, bool) and field is not None and "bool" not in str(field.annotation):
            raise ValueError(f"{name}: expected no {str(value).lower()}")
    return values


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: object) -> object:
        return _no_booleans(cls, values)


def _copy_detector(spec: str) -> str:
    """Refuse what is no copy detector."""
    copy_detector(spec)
    return spec


class AdapterConfig(_Section):
    """An adapter on the attacked model, such as a LoRA from a model-sharing site."""

    path: Place = Field(description="A safetensors file, a folder of one, `testbed-lora` or `testbed-memorised`.")
    weight: float = Field(1.0, gt=-100, lt=100, description="By which what it adds is multiplied; 1 as it was trained.")
    weight_name: Place | None = Field(None, description="Name of the file, in a folder of several.")
    token: Place | None = Field(
        None, description="Of a textual inversion: its word in captions; by default the one that the file names, or its name."
    )

    @field_validator("weight")
    @classmethod
    def _something(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("at 0 the adapter adds nothing; leave it out")
        return weight


class _Model(_Section):
    """A model by its place, and what must be said of it beside."""

    model: Place
    revision: Place | None = Field(None, description="Revision of a hub id; none for the newest.")
    base: Place | None = Field(
        None,
        description="Of a model in a single file: a folder or hub id of its family, for the parts that the file lacks. Files "
        "of Stable Diffusion 3 and FLUX.1 need it.",
    )
    prediction_type: PredictionType | None = Field(
        None,
        description="Of a model in a single file that does not say it: what the UNet puts out, `epsilon` or `v_prediction`.",
    )
    zero_terminal_snr: bool | None = Field(
        None,
        description="Of a model in a single file that does not say it: whether its schedule ends without signal.",
    )

    def said(self) -> Said:
        """What the job says of a model in a single file."""
        return Said(self.base, self.prediction_type, self.zero_terminal_snr)


class ReplicaConfig(_Model):
    """The attacked model and how it is run."""

    model: Place = Field(
        description="A folder in diffusers' layout or its fsspec URL, a hub id, a single .safetensors file, `testbed`, "
        "`testbed-flow` or `testbed-tiny`."
    )
    dtype: Dtype = Field(
        "auto",
        description="Of denoiser and text encoders; `auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is faster "
        "on processors that have it.",
    )
    resolution_px: int = Field(512, ge=8, le=4096, description="Side of the square that images are resized and cropped to.")
    denoiser_batch: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Images in one call of the denoiser; by default as many as keep the device busy and fit its memory.",
    )
    timesteps: Naming = Field(
        "levels",
        description="What a timestep of an attack means: `levels`, the noise level that Stable Diffusion 1.x has at that step, "
        "so that it is the same noise in every family; or `own`, the model's own step.",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Guidance scale that a model distilled under guidance, such as FLUX.1-dev, is told; 1 by default. Other "
        "models are told none.",
    )
    shape: Literal["square", "buckets"] = Field(
        "square",
        description="`square` crops every image to the middle; `buckets` resizes each to the nearest of the shapes that the "
        "model's family was trained on, of the area of a square of resolution_px.",
    )
    micro_conditions: Literal["constant", "own"] = Field(
        "constant",
        description="What SDXL is told of sizes: those of the scanned image; or `own`, the size of the image's file and its "
        "crop, which may tell members by their files.",
    )
    text: TextPlace = Field(
        "resident",
        description="Where text encoders are while nothing is encoded: `resident` on the GPU, or `offload` in the machine's "
        "memory, from where they are copied for each batch: GPU memory for a second or so per batch. With `stage` all texts "
        "are encoded first, by a pool that has the text encoders alone, and kept in the run directory until the scan is "
        "finished, so that a GPU never holds both: `scan --dry-run` says how much room they take. Changes no score.",
    )
    adapters: list[AdapterConfig] = Field(
        [],
        max_length=16,
        description="LoRA or LoKr files that are put onto the model, in order, unfused: it is then attacked as tuned by them.",
    )
    weights: Weights = Field(
        "as_saved",
        description="What the denoiser's weights are kept in: `as_saved`, or rounded to a byte each, `int8` or `float8`, for "
        "models that do not fit otherwise (`pip install 'raymia[quantised]'`). It changes scores a little, see "
        "docs/performance.md; attacks that take gradients or compute in float32 need the weights as they were saved.",
    )
    compile: bool = Field(
        False,
        description="Compile the denoiser with torch.compile: faster calls after a start of half a minute to minutes per "
        "replica; on a CPU it needs a C++ compiler.",
    )

    def options(self, dtype: str = "float32", device: str = "cpu", also_float32: bool = False, gpus: int = 1) -> LoadOptions:
        """How the model is loaded onto a device or several, in a dtype."""
        return LoadOptions(
            dtype=dtype,
            device=device,
            resolution_px=self.resolution_px,
            denoiser_batch=self.denoiser_batch,
            compiled=self.compile,
            also_float32=also_float32,
            naming=self.timesteps,
            guidance=self.guidance,
            own_sizes=self.micro_conditions == "own",
            text=self.text,
            weights=self.weights,
            adapters=tuple(
                Adapter(find_adapter(adapter_file(one.path), one.weight_name), one.weight, one.token) for one in self.adapters
            ),
            gpus=gpus,
        )


class PoolConfig(_Section):
    """The replicas and what each is given."""

    replicas: int | None = Field(
        None, ge=1, le=MOST, description="Fixed number of replicas; by default one per GPU, or one per two CPUs."
    )
    min_replicas: int | None = Field(
        None, ge=1, le=MOST, description="With max_replicas: an elastic pool, instead of `replicas`."
    )
    max_replicas: int | None = Field(None, ge=1, le=MOST)
    initial_replicas: int | None = Field(
        None, ge=1, le=MOST, description="Size that an elastic pool asks for at once; max_replicas if unset."
    )
    gpus_per_replica: float | None = Field(
        None,
        ge=0,
        le=16,
        description="By default 1 where the cluster has GPUs, else 0. Replicas may share a GPU; 2 or more spread the blocks of "
        "a large denoiser over as many GPUs of one node, which compute one after the other. Attacks that take gradients or "
        "compute in float32 need it on one.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where replicas compute; `auto` is the GPU where they are given one."
    )
    label_selector: dict[str, str] = Field(
        {},
        description="Labels of the nodes that replicas may run on, such as {ray.io/accelerator-type: in(L4, A10G)}; by default "
        "any with room.",
    )
    batch_size: int = Field(
        16, ge=1, le=MOST, description="Samples in front of a replica at once; unit_size should be a multiple."
    )

    @property
    def gpus(self) -> int:
        """GPUs that a replica's denoiser is spread over."""
        return max(1, int(self.gpus_per_replica or 1))

    @model_validator(mode="after")
    def _fixed_or_elastic(self) -> PoolConfig:
        if (self.gpus_per_replica or 0) > 1 and self.gpus_per_replica != self.gpus:
            raise ValueError("gpus_per_replica: expected a whole number above 1")
        elastic = (self.min_replicas, self.max_replicas, self.initial_replicas)
        if self.replicas is not None and any(elastic):
            raise ValueError("give either replicas, or min_replicas and max_replicas")
        if any(elastic) and not (self.min_replicas and self.max_replicas):
            raise ValueError("an elastic pool needs both min_replicas and max_replicas")
        if self.min_replicas and self.max_replicas:
            initial = self.initial_replicas or self.max_replicas
            if not self.min_replicas <= initial <= self.max_replicas:
                raise ValueError("expected min_replicas <= initial_replicas <= max_replicas")
        return self


class ReferenceConfig(_Model):
    """A model close to the attacked one that was not trained on the works in question."""

    model: Place = Field(description="As `replica.model`: the base of a fine-tune, an earlier checkpoint, a sibling.")


class LpipsConfig(_Section):
    """The perceptual distance of attacks that compare by LPIPS."""

    net: Literal["alex", "vgg", "squeeze"] = Field("alex", description="Architecture of the trunk.")
    trunk: Place = Field(
        "torchvision", description="ImageNet weights of the trunk: `torchvision` fetches them; or a safetensors file of them."
    )


class LimitsConfig(_Section):
    """What may be read of what others made, and how long for: no shard, manifest or server takes more than this.

    The first four decide what becomes of a sample, so that a run is resumed with the values that it began with.
    """

    max_image_bytes: int = Field(
        ReadLimits.max_image_bytes, ge=1, le=2**40, description="Images whose file is larger are quarantined unread."
    )
    max_text_bytes: int = Field(
        ReadLimits.max_text_bytes,
        ge=1,
        le=2**40,
        description="Captions and other text beside an image that are larger are not read.",
    )
    max_shard_bytes: int = Field(
        ReadLimits.max_shard_bytes,
        ge=1,
        le=2**50,
        description="Bytes that are read of a shard; what is behind them is quarantined as its rest.",
    )
    max_members: int = Field(
        ReadLimits.max_members,
        ge=1,
        le=MOST,
        description="Files that are read of a shard; what is behind them is quarantined as its rest.",
    )
    max_shards: int = Field(
        1_000_000, ge=1, le=MOST, description="Shards that a manifest's patterns may expand to; a job with more is refused."
    )
    read_timeout_s: float = Field(
        RemoteLimits.idle_timeout_s,
        gt=0,
        le=86_400,
        description="How long storage elsewhere may keep a read waiting before it is tried again.",
    )
    attempts: int = Field(
        RemoteLimits.attempts, ge=1, le=100, description="How often a read from elsewhere is tried, waiting longer each time."
    )

    def of_shards(self) -> ReadLimits:
        """How much is read of a shard."""
        return ReadLimits(
            max_shard_bytes=self.max_shard_bytes,
            max_members=self.max_members,
            max_image_bytes=self.max_image_bytes,
            max_text_bytes=self.max_text_bytes,
        )

    def elsewhere(self) -> RemoteLimits:
        """What reading a shard may cost that is not on a local disk."""
        return RemoteLimits(self.max_shard_bytes, self.read_timeout_s, self.attempts)


def _attacks(value: object) -> dict[str, Attack]:
    if not isinstance(value, dict) or not value:
        known = ", ".join(ATTACKS.names())
        raise ConfigError(f"`attacks`: expected a map from attack to its parameters; known are {known}")
    attacks = {}
    for key, parameters in value.items():
        name, colon, variant = str(key).partition(":")
        if isinstance(parameters, Attack):
            attacks[key] = parameters
            continue
        try:
            kind = ATTACKS.get(name)
        except ConfigError as error:
            raise ConfigError(f"`attacks.{key}`: {error}; `raymia attacks` lists them") from error
        if colon and not VARIANT.fullmatch(variant):
            raise ConfigError(
                f"`attacks.{key}`: expected a name behind the colon, of letters, digits and _.=+-, such as {name}:few_draws"
            )
        try:
            attacks[key] = kind.model_validate(_no_booleans(kind, parameters or {}))
        except ValidationError as error:
            raise ConfigError(f"attacks.{key}: {describe_validation(error, kind)}") from error
        except ValueError as error:
            raise ConfigError(f"attacks.{key}: {error}") from error
    return attacks


def _replica(value: object) -> object:
    """A service where the section names one, else a model and how it is run."""
    if not isinstance(value, dict):
        return value
    kind: type[BaseModel] = ReplicaConfig
    if "service" in value:
        try:
            kind = SERVICES.get(str(value["service"]))
        except ConfigError as error:
            raise ConfigError(f"`replica.service`: {error}; `raymia services` lists them") from error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ConfigError(describe_validation(error, kind, "replica")) from error


class Job(_Section):
    """One scan: manifest x replica x attacks to a run directory."""

    manifest: Place = Field(description="Path or fsspec URL of a manifest, or `testbed`.")
    replica: Annotated[ReplicaConfig | SerializeAsAny[Service], BeforeValidator(_replica)] = Field(
        description="The attacked model; or `service` with the service's own options, to attack one that offers images alone."
    )
    attacks: Annotated[dict[str, SerializeAsAny[Attack]], BeforeValidator(_attacks)] = Field(
        description="Parameters by attack; `{}` for the defaults. `ATTACK:NAME` is a further variant of an attack: all "
        "variants share what they can, and their signals begin with `ATTACK:NAME`."
    )
    caption_source: CaptionSource = Field(
        "own",
        description="What the model is told about an image: its own caption; as controls, the caption of another image of its "
        "shard, or none.",
    )
    control_model: Place | None = Field(
        None,
        description="A model that cannot have seen any of the samples, scanned with the same attacks into RUN/control: what it "
        "tells apart is no memory.",
    )
    reference: Literal["base"] | ReferenceConfig | None = Field(
        None,
        description="What scores are held against, too: `base`, the model without its adapters; or `model`, another of the "
        "same family. Every attack runs in front of both under the same noise, and `calibrated.NAME` is its score less the "
        "reference's.",
    )
    clip: Place | None = Field(
        None,
        description="CLIP for attacks that compare embeddings: a folder, `testbed`, or ARCHITECTURE/TAG of open_clip, "
        "the newest on the hub or with @REVISION.",
    )
    latent_cache: Place | None = Field(
        None,
        description="Folder or fsspec URL where latents are kept: a later scan of the same images with another checkpoint, but "
        "the same autoencoder, resolution and batch_size, takes them from there instead of decoding and encoding.",
    )
    lpips: LpipsConfig = Field(LpipsConfig(), description="LPIPS for attacks that compare by it.")
    copies: Annotated[Place, AfterValidator(_copy_detector)] | None = Field(
        None,
        description="Copy detector for attacks that look for copies: `sscd:FILE`, `dinov2:FOLDER-OR-ID`, or `clip`, the job's "
        "CLIP; see docs/extraction.md.",
    )
    access: Literal["black", "grey", "white"] = Field(
        "white", description="What the attacker can do; attacks that need more are refused."
    )
    pool: PoolConfig = PoolConfig()
    unit_size: int = Field(256, ge=1, le=MOST, description="Samples per unit: the grain of commit and resume.")
    seed: int = Field(0, ge=0, lt=2**63, description="From which all noise follows, with a sample's key.")
    run: Place = Field(description="Run directory; by default runs/ and the job file's name.")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, le=2**40, description="Images whose header announces more are quarantined undecoded."
    )
    limits: LimitsConfig = Field(LimitsConfig(), description="What may be read of what others made, and how long for.")
    labels_do_not_hold: bool = Field(
        False, description="Scan although the manifest's labels were not made for this model; the report says so."
    )
    max_quarantined_fraction: float = Field(0.05, ge=0, le=1, description="A scan that quarantines more ends with exit code 3.")

    @model_validator(mode="after")
    def _attacks_are_possible(self) -> Job:
        if self.hosted is not None:
            offered = self.hosted.offers()
            object.__setattr__(self, "attacks", {name: attack.as_offered(offered) for name, attack in self.attacks.items()})
        for name, attack in self.attacks.items():
            if not Access(self.access).allows(attack.access):
                raise ConfigError(
                    f"attacks.{name}: needs {attack.access} access, but `access` is {self.access}; leave the attack out, or "
                    f"set access: {attack.access} if the attacker has it"
                )
            if self.hosted is None:
                _require_said(name, attack)
            else:
                _require_possible(name, attack, self.hosted)
            if "clip" in attack.needs() and self.clip is None:
                raise ConfigError(f"attacks.{name}: compares by CLIP, but the job has no `clip`; set one, or another metric")
            if "copies" in attack.needs() and self.copies is None:
                raise ConfigError(f"attacks.{name}: looks for copies, but the job has no `copies`; set it to sscd:FILE or clip")
        if self.copies == "clip" and self.clip is None:
            raise ConfigError("`copies`: clip is the job's CLIP, and the job has no `clip`; set one, or copies: sscd:FILE")
        if self.hosted is not None and (self.control_model or self.latent_cache or self.reference):
            field = "control_model" if self.control_model else "latent_cache" if self.latent_cache else "reference"
            raise ConfigError(f"`{field}` goes with replica.model: a service offers images alone")
        return self

    @property
    def hosted(self) -> Service | None:
        """The attacked service; none where a model is attacked."""
        return self.replica if isinstance(self.replica, Service) else None

    @property
    def model(self) -> ReplicaConfig:
        """The attacked model and how it is run.

        Raises:
            ValueError: a service is attacked.
        """
        if isinstance(self.replica, Service):
            raise ValueError(f"the service {self.replica.service} is attacked, and no model of ours")
        return self.replica

    @property
    def subject(self) -> str:
        """What is attacked, in a word: a model with its adapters, or a service."""
        if isinstance(self.replica, Service):
            return served_name(self.replica.service, self.replica.model)
        return tuned_name(self.replica.model, [adapter.path for adapter in self.replica.adapters])

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the job that it was begun with: all but `FREE_TO_CHANGE`, JSON-like."""
        content = without_free(self.model_dump(mode="json"))
        if self.hosted is not None:
            content["replica"] = self.hosted.identity()
        return content

    def needs(self) -> frozenset[Need]:
        """Models beside the attacked one that the attacks compare with."""
        return frozenset(need for attack in self.attacks.values() for need in attack.needs())

    def control(self) -> Job | None:
        """The scan of the control model, into a run directory within this one's; none without a control model."""
        if self.control_model is None:
            return None
        replica = self.model.model_copy(update={**dict(_Model(model=self.control_model)), "adapters": []})
        update = {"replica": replica, "run": f"{self.run}/{CONTROL}", "control_model": None, "labels_do_not_hold": True}
        return self.model_copy(update=update | {"reference": None})

    def reference_job(self) -> Job | None:
        """This job in front of the model that scores are held against; none where that is the model's base, or nothing."""
        if not isinstance(self.reference, ReferenceConfig):
            return None
        changed: dict[str, Any] = {**dict(self.reference), "adapters": []}
        return self.model_copy(update={"replica": self.model.model_copy(update=changed), "reference": None})


def _require_possible(name: str, attack: Attack, service: Service) -> None:
    """Refuse an attack that needs more than a service offers.

    Raises:
        ConfigError: names the attack and what it needs.
    """
    lacking = sorted(attack.asks() - service.offers())
    if lacking:
        fields = [f"{field}: {json.dumps(value)}" for one, (field, value) in attack.spares.items() if one in lacking]
        without = f"; set {', '.join(fields)} to do without" if len(fields) == len(lacking) else ""
        raise ConfigError(
            f"attacks.{name}: asks for {', '.join(lacking)}, which service {service.service} does not offer{without}"
        )
    if attack.access not in (Access.BLACK, Access.CONTROL) or (
        attack.access == Access.CONTROL and attack.cost() != Evaluations()
    ):
        raise ConfigError(f"attacks.{name}: evaluates the model itself; service {service.service} offers images alone")


def _require_said(name: str, attack: Attack) -> None:
    """Refuse an attack that leaves to a model what only a service has of its own.

    Raises:
        ConfigError: names the field.
    """
    for field, value in attack.spares.values():
        if value is None and getattr(attack, field) is None:
            raise ConfigError(f"attacks.{name}.{field}: null is a service's own, and a model has none; give a number")


FREE_TO_CHANGE = (
    "run",
    "pool",
    "max_quarantined_fraction",
    "control_model",
    "labels_do_not_hold",
    "latent_cache",
    "replica.text",
    "limits.max_shards",
    "limits.read_timeout_s",
    "limits.attempts",
)
"""Fields that change no score, so that a run may be resumed with other values."""


def load_job(path: Path, overrides: list[str] | None = None, run: str | None = None) -> Job:
    """Read a job file.

    Args:
        path: YAML.
        overrides: ``a.b=value`` pairs, the value in YAML.
        run: run directory instead of the file's.

    Raises:
        ConfigError: names the file and field, what was expected and what to do.
    """
    content = read_job(path, overrides, run)
    if "sweep" in content:
        raise ConfigError(f"{path}: a job with `sweep` is a grid of scans; run it with `raymia sweep {path}`")
    return parse_job(content, str(path))


def read_job(path: Path, overrides: list[str] | None, run: str | None) -> dict[str, Any]:
    """The contents of a job file before they are validated; see `load_job`."""
    try:
        content = parse_yaml(read_document(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a job file") from error
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a map with `manifest`, `replica` and `attacks`")
    for override in overrides or []:
        override_field(content, override)
    if run is not None:
        content["run"] = run
    content.setdefault("run", f"runs/{path.stem}")
    return content


def parse_job(content: dict[str, Any], source: str) -> Job:
    """Validate the contents of a job file; `source` is named in errors.

    Raises:
        ConfigError: names the field, what was expected and, for an unknown key, the nearest known one.
    """
    try:
        return Job.model_validate(content)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe_validation(error, Job)}") from error


def override_field(content: dict[str, Any], override: str) -> None:
    """Change a field of a job's contents as ``FIELD=VALUE`` says, the value in YAML.

    Raises:
        ConfigError: the change is none, or goes into a value.
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: expected FIELD=VALUE, such as pool.batch_size=8")
    try:
        set_field(content, path, parse_yaml(value))
    except DocumentError as error:
        raise ConfigError(f"--set {override}: {error}") from error


def set_field(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a field of nested maps, making the maps that are missing.

    Args:
        path: names with dots between them.

    Raises:
        ConfigError: a part of the path is a value.
    """
    *parents, last = path.split(".")
    place = content
    for part in parents:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"{path}: `{part}` is a value, not a section")
    place[last] = value


def without_free(job: dict[str, Any]) -> dict[str, Any]:
    """A dumped job without the fields of `FREE_TO_CHANGE`, as far as it has them."""
    content = copy.deepcopy(job)
    for field in FREE_TO_CHANGE:
        *parents, last = field.split(".")
        place: Any = content
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return content


def as_it_was_meant(job: dict[str, Any]) -> dict[str, Any]:
    """A job as an older version of raymia recorded it, with the defaults of fields that did not exist then."""
    replica = job.get("replica")
    filled = {**_defaults(Job), **job}
    # A record says of a model that it is no service, which no job says.
    if isinstance(replica, dict) and replica.get("service") is None:
        filled["replica"] = {**_defaults(ReplicaConfig), **{name: replica[name] for name in replica if name != "service"}}
    elif isinstance(replica, dict) and replica["service"] in SERVICES.names():
        kind = SERVICES.get(replica["service"])
        own = {name: replica[name] for name in replica if name in kind.model_fields}
        filled["replica"] = {name: value for name, value in {**_defaults(kind), **own}.items() if name not in kind.free}
    try:
        attacks = {name: attack.model_dump(mode="json") for name, attack in _attacks(job.get("attacks")).items()}
    except (ConfigError, ValueError):
        return filled  # an attack that exists no more stays as it was recorded
    return {**filled, "attacks": attacks}


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    values = {name: field.get_default() for name, field in kind.model_fields.items() if not field.is_required()}
    return {name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for name, value in values.items()}


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two dumped jobs differ, each as ``field: before -> after``."""
    lines = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        name = f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: {old!r} -> {new!r}")
    return lines
