"""What a name of a model that is no folder leads to, and what a hub says, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.replica.stable_diffusion import StableDiffusion
from tests.hub import COMMIT, Answer, Hub
from tests.replica.damaged import TEXT, UNET, copied, rewrite, without
from tests.replica.test_tensors import shard


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}, b""), "HTTP 401, .*; it wants to know who asks: log in with `hf auth login`, or the id is wrong"),
        (
            (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model me/model is restricted."}, b""),
            "HTTP 403, Access to model me/model is restricted.*; access is refused: accept the model's terms on its page",
        ),
        ((404, {"X-Error-Code": "RepoNotFound"}, b""), "HTTP 404, .*; there is no such repository or file; give a folder"),
        (
            (429, {"X-Error-Message": "We had to rate limit you."}, b""),
            "HTTP 429, We had to rate limit you.*; too many requests",
        ),
        ((500, {}, b'{"error": "Internal error, and more"}'), "HTTP 500, Internal error, and more.*; try again later"),
        ((503, {"X-Error-Message": "Down for maintenance"}, b""), "HTTP 503, Down for maintenance.*; try again later"),
        ((418, {}, b""), "HTTP 418, .*; see the model's page"),
        ((200, {}, b"<html>a proxy's page</html>"), "the hub does not give it: "),
    ],
)
def test_what_the_hub_answers_is_said_with_its_status_and_what_to_do(hub: type[Hub], answer: Answer, message: str) -> None:
    hub.answer = answer
    with pytest.raises(
        ConfigError,
        match=f"replica.model 'me/model': no such folder, and the hub does not give it: {message}"
        if "HTTP" in message
        else message,
    ):
        find_pipeline("me/model", with_weights=False)


def test_a_hub_that_cannot_be_reached_and_one_that_must_not_are_told_apart(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ConfigError, match=r"it cannot be reached \(ConnectError: .*\), and the cache lacks it"):
            find_pipeline("me/model", with_weights=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"it cannot be reached \(OfflineModeIsEnabled: .*\), and the cache lacks it"):
        find_pipeline("me/model", with_weights=False)
    assert hub.asked == []


def plain(folder: Path) -> None:
    """As it is."""


def half(folder: Path) -> None:
    """The UNet in fp16 shards, the text encoder in fp16, the autoencoder plain."""
    shard(folder, "fp16")
    (folder / TEXT).rename(folder / "text_encoder" / "model.fp16.safetensors")


def both(folder: Path) -> None:
    """A second set of the UNet's weights, which is not needed."""
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes((folder / UNET).read_bytes())
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")


@pytest.mark.parametrize("edit", [plain, half, both])
def test_of_a_hub_id_the_documents_are_fetched_and_then_the_weights_of_each_part(
    hub: type[Hub], tiny: Path, tmp_path: Path, edit: Callable[[Path], None]
) -> None:
    hub.folder = copied(tiny, tmp_path / "repository")
    edit(hub.folder)
    found = find_pipeline("me/model", with_weights=False)
    assert isinstance(found.family, StableDiffusion)
    assert found.fingerprint() == COMMIT
    assert not list(found.path.rglob("*.safetensors")), "only their headers were asked for"
    assert (found.path / "tokenizer" / "tokenizer.json").is_file()
    found = find_pipeline("me/model", with_weights=True)
    fetched = {file.relative_to(found.path).as_posix() for file in found.path.rglob("*.safetensors")}
    expected = {f.relative_to(hub.folder).as_posix() for f in hub.folder.rglob("*.safetensors")}
    assert fetched == expected - ({"unet/diffusion_pytorch_model.fp16.safetensors"} if edit is both else set())
    assert not list(found.path.rglob("*.bin"))
    assert {part: weights.variant for part, weights in found.weights.items()} == {
        "unet": "fp16" if edit is half else None,
        "vae": None,
        "text_encoder": "fp16" if edit is half else None,
    }


@pytest.mark.parametrize("split", [False, True])
def test_weights_on_the_hub_that_lack_a_tensor_are_refused_by_their_headers(
    hub: type[Hub], tiny: Path, tmp_path: Path, split: bool
) -> None:
    hub.folder = copied(tiny, tmp_path / "repository")
    rewrite(hub.folder / UNET, without("conv_out.bias"))
    if split:
        shard(hub.folder)
    with pytest.raises(ConfigError, match=r"unet: the weights lack the tensor conv_out\.bias"):
        find_pipeline("me/model", with_weights=False)
    assert not list(tmp_path.rglob("cache/**/*.safetensors"))
    (hub.folder / TEXT).write_bytes(b"<html>not the weights</html>")
    (hub.folder / UNET).unlink(missing_ok=True)
    (hub.folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"unet: (has only .*non_ema|the weights lack the tensor conv_out\.bias)"):
        find_pipeline("me/model", with_weights=False)


def test_without_the_hub_what_its_cache_holds_is_checked(hub: type[Hub], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.folder = tiny
    find_pipeline("me/model", with_weights=False)
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_pipeline("me/model", with_weights=False, revision=COMMIT).fingerprint() == COMMIT
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models/x.safetensors", "no such file; give a .safetensors or .gguf file, a folder in diffusers' layout or a hub id"),
        ("x.ckpt", "pickled weights may run code when they are read"),
        ("/models/x.gguf", "no such file"),
        ("here/file", "not readable as safetensors"),
        ("~/sd", "no such folder; give a folder in diffusers' layout, a .safetensors file or a hub id"),
        ("~nobody-of-that-name/sd", "no (name of a|such) folder"),
        ("./sd/model", "no such folder"),
        ("/sd", "no such folder"),
        ("sd", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no such folder"),
        ("a\0b/c", "no (name of a|such) folder"),
        ("x" * 5000, "no (name of a|such) folder"),
        ("a b/c d", "the hub does not give it: HFValidationError"),
    ],
)
def test_what_can_be_no_hub_id_is_not_asked_of_the_hub(
    hub: type[Hub], model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(b"weights")
    with pytest.raises(ConfigError, match=message):
        find_pipeline(model, with_weights=False)
    assert hub.asked == []


def test_a_folder_in_the_home_is_found(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    copied(tiny, tmp_path / "sd")
    assert find_pipeline("~/sd", with_weights=True).path == tmp_path / "sd"
