"""Where the parts of a model are while it is run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raymia.config import parse_job
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.memory import _FullTexts
from raymia.replica.parts import Parts
from tests.replica.test_every_family import cases, loaded


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(cases()["sd3"].save(tmp_path_factory.mktemp("sd3") / "p")), with_weights=True)


def tensors(replica: LatentDiffusion) -> list[Tensor]:
    return [tensor for encoder in replica._text_modules for tensor in (*encoder.parameters(), *encoder.buffers())]


def test_text_encoders_that_rest_elsewhere_are_on_the_device_for_a_call_alone(found: PipelineFolder) -> None:
    # PyTorch's meta device stands for a GPU: what is on it is not on the CPU.
    options = LoadOptions(device="meta", resolution_px=64, text="offload")
    with _FullTexts():
        replica = found.family.load(Parts(found.path, found.parts), options)
        assert isinstance(replica, LatentDiffusion)
        before = tensors(replica)
        assert before
        assert not any(tensor.is_meta for tensor in before)
        assert all(tensor.is_meta for tensor in replica.parameters().values())
        with replica.text_encoders_at_hand():
            assert all(tensor.is_meta for tensor in tensors(replica))
        states = replica.text(["a picture"]).states
    assert states is not None
    assert states.is_meta
    assert all(one is other for one, other in zip(tensors(replica), before, strict=True))


def test_where_text_encoders_rest_changes_nothing_that_a_model_is_told(found: PipelineFolder) -> None:
    replica = loaded(found, cases()["sd3"])
    resident = replica.text(["a picture", "of no meaning"]).tensors()
    replica.text_device = torch.device("cpu", 0)  # not the device itself, so that all is copied
    offloaded = replica.text(["a picture", "of no meaning"]).tensors()
    assert resident.keys() == offloaded.keys()
    assert all(torch.equal(resident[name], offloaded[name]) for name in resident)


def test_a_run_may_be_gone_on_with_where_text_encoders_rest_elsewhere() -> None:
    contents = [
        {"manifest": "m", "replica": {"model": "testbed", "text": text}, "attacks": {"loss": {}}, "run": "r"}
        for text in ("resident", "offload")
    ]
    one, other = (parse_job(content, "job.yaml") for content in contents)
    assert one.identity() == other.identity()
    assert other.model.options().text == "offload"
