"""What memory a model takes, told by its configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from raymia.bench.shapes import SHAPES, VAE_OPTIONS
from raymia.errors import ConfigError
from raymia.replica import backward
from raymia.replica.backward import GIB
from raymia.replica.families import FAMILIES, LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.memory import BESIDE_GIB, MIB, SLACK, Backward, Memory, _FullTexts, _peak, predicted_memory
from tests.replica.families.case import Case
from tests.replica.test_every_family import cases, loaded

MEASURED = {"flux": (22.201, 0.910), "sd15": (1.645, 0.509), "encode": (0.346, 5.023)}
"""GiB of weights, and of a call beside them, that PyTorch held on an H100: FLUX.1 dev's transformer at 1024 px and 512 tokens,
two images, bfloat16; Stable Diffusion 1.5's UNet at 512 px, eight images, bfloat16; its autoencoder's encode of two images at
1024 px in float32."""


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def on_meta(kind: type[nn.Module], dtype: torch.dtype = torch.bfloat16, **config: object) -> nn.Module:
    with torch.device("meta"):
        return kind(**config).to(dtype).requires_grad_(False)


def call_flux(model: nn.Module, count: int) -> None:
    model(
        hidden_states=empty(count, 4096, 64),
        encoder_hidden_states=empty(count, 512, 4096),
        pooled_projections=empty(count, 768),
        timestep=empty(count),
        img_ids=empty(4096, 3),
        txt_ids=empty(512, 3),
        guidance=empty(count),
    )


def test_what_is_predicted_is_what_a_gpu_held() -> None:
    found = {}
    with _FullTexts():
        flux = on_meta(FluxTransformer2DModel, guidance_embeds=True)
        found["flux"] = flux, _peak(lambda count: call_flux(flux, count), 2)
        unet = on_meta(UNet2DConditionModel, **SHAPES["sd15"].unet)
        inputs = SHAPES["sd15"].inputs(8, 512, "meta", torch.bfloat16)
        found["sd15"] = unet, _peak(lambda _: unet(**inputs), 8)
        vae = on_meta(AutoencoderKL, torch.float32, **VAE_OPTIONS)
        found["encode"] = vae, _peak(lambda count: vae.encode(empty(count, 3, 1024, 1024, dtype=torch.float32)), 2)
    for name, (module, peak) in found.items():
        weights, call = MEASURED[name]
        # The allocator rounds each tensor up.
        assert sum(tensor.nbytes for tensor in module.state_dict().values()) / GIB == pytest.approx(weights, abs=0.05)
        assert peak / GIB == pytest.approx(call, rel=0.01)


@pytest.fixture(scope="module", params=FAMILIES.names())
def case(request: pytest.FixtureRequest) -> Case:
    return cases()[request.param]


@pytest.fixture(scope="module")
def found(case: Case, tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(case.save(tmp_path_factory.mktemp(case.family) / "p")), with_weights=True)


GRADIENT = Backward("gradient", "parameters", 10, together=16)
MASKING = Backward("masking", "latents", 16)
NOISE = Backward("noise", "latents", 16, precise=True)


@pytest.fixture(scope="module")
def memory(case: Case, found: PipelineFolder) -> Memory:
    """What is predicted of the family in bfloat16, with its twin in float32 and passes of every kind."""
    options = LoadOptions(dtype="bfloat16", resolution_px=case.side_px, also_float32=True)
    memory = predicted_memory(found, options, texts=3, backward=[GRADIENT, MASKING, NOISE])
    assert memory is not None
    return memory


def test_every_family_tells_its_memory_and_mixes_no_devices(case: Case, found: PipelineFolder, memory: Memory) -> None:
    replica = loaded(found, case, dtype="bfloat16")
    held = replica._denoiser.state_dict().values()
    parameters = sum(tensor.numel() for tensor in replica.parameters().values())
    own = next(part for part in memory.parts if part.dtype == "bfloat16" and part.parameters == parameters)
    assert own.weights_gib * GIB == pytest.approx(sum(tensor.nbytes for tensor in held), rel=0.02)
    twin = memory.parts[-1]
    assert (twin.part, twin.dtype) == (own.part, "float32")
    assert all(call.one_image_gib <= call.gib for call in memory.calls)
    assert memory.calls[0].one_image_gib > 0
    forwards = [call for call in memory.calls if call.what not in ("gradient", "masking", "noise")]
    assert max(call.one_image_gib for call in forwards) < max(call.gib for call in forwards)
    assert memory.least_gib < memory.gib
    assert memory.smallest_gpu_gib is not None


def test_backward_passes_of_every_family_are_predicted(
    case: Case, found: PipelineFolder, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backward, "TOGETHER_GIB", 0)
    options = LoadOptions(dtype="bfloat16", resolution_px=case.side_px)
    alone = predicted_memory(found, options, backward=[GRADIENT, MASKING])
    assert alone is not None
    calls, streamed = ({call.what: call for call in one.calls} for one in (memory, alone))
    own = next(part for part in memory.parts if part.dtype == "bfloat16" and part.part in ("unet", "transformer"))
    # Of each sample a gradient in bfloat16 and one in float32, beside what is held to compute them.
    assert calls["gradient"].gib > 16 * 6 * own.parameters / GIB
    assert calls["gradient"].one_image_gib > 6 * own.parameters / GIB
    assert streamed["gradient"].images == 10
    assert streamed["gradient"].gib == streamed["gradient"].one_image_gib < calls["gradient"].gib
    assert calls["masking"].one_image_gib < calls["masking"].gib < calls["noise"].gib
    assert calls["masking"] == streamed["masking"]


def test_a_model_that_asks_for_numbers_says_that_its_memory_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases()["stable_diffusion"]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    monkeypatch.setattr(UNet2DConditionModel, "forward", lambda self, sample, *_, **__: (sample.sum().item(),))
    with pytest.raises(ConfigError, match=r"cannot be told without its weights \(RuntimeError"):
        predicted_memory(found, LoadOptions(resolution_px=64))


def test_text_encoders_that_rest_elsewhere_are_held_for_a_call_alone(tmp_path: Path) -> None:
    case = cases()["sd3"]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    resident, offloaded = (
        predicted_memory(found, LoadOptions(dtype="bfloat16", resolution_px=64, text=text)) for text in ("resident", "offload")
    )
    assert resident is not None
    assert offloaded is not None
    resting = [part for part in offloaded.parts if not part.resident]
    assert {part.part for part in resting} == {"text_encoder", "text_encoder_2", "text_encoder_3"}
    weights = sum(part.weights_gib for part in resting)
    calls = {call.what: call.gib for call in resident.calls}
    assert {call.what: call.gib for call in offloaded.calls} == pytest.approx({**calls, "text": calls["text"] + weights})
    assert resident.gib - offloaded.gib == pytest.approx(SLACK * weights)
    over_two = predicted_memory(found, LoadOptions(dtype="bfloat16", resolution_px=64, gpus=2))
    assert over_two is not None
    held = sum(part.weights_gib for part in resident.parts)
    first = held - next(part.weights_gib for part in resident.parts if part.part == "transformer")
    assert resident.gib - over_two.gib == pytest.approx(SLACK * (held - max(held / 2, first)))
    staged = predicted_memory(found, LoadOptions(dtype="bfloat16", resolution_px=64, text="stage"))
    assert staged is not None
    assert staged.parts == offloaded.parts
    # The calls of a stage of its own are not beside the denoiser's weights.
    held = sum(part.weights_gib for part in staged.parts if part.resident)
    alone = [call.gib + held * (call.what != "text") for call in staged.calls]
    assert staged.gib == pytest.approx(SLACK * max(alone) + BESIDE_GIB)
    assert staged.least_gib < offloaded.least_gib
    states = found.load(LoadOptions(device="cpu", resolution_px=64)).text(["one"])
    assert staged.prompt_mib == pytest.approx(sum(one.numel() * 2 for one in states.tensors().values()) / MIB)
