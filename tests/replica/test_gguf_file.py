"""GGUF files: numbers as other readers have them, headers within bounds, and the model that diffusers makes of one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers import GGUFQuantizationConfig, SD3Transformer2DModel
from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_functions, dequantize_gguf_tensor

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline
from raymia.replica.gguf_file import gguf_headers, gguf_tensors
from raymia.replica.single_file import Said, look
from tests.replica.families import sd3
from tests.replica.original import original_sd3, weights, write_gguf

Kind = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "cache"))


def written(file: Path, tensors: dict[str, tuple[np.ndarray, Kind | None]], **fields: Any) -> Path:
    writer = gguf.GGUFWriter(file, "sd3")
    writer.add_string("general.name", "a model")
    writer.add_array("tokens", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    for name, value in fields.items():
        writer.add_array(name.replace("__", "."), value)
    for name, (numbers, kind) in tensors.items():
        writer.add_tensor(name, numbers if kind is None else gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    write_gguf(writer)
    return file


def numbers_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_what_the_header_says_is_what_the_libraries_reader_says(tmp_path: Path) -> None:
    kinds = [Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.BF16]
    tensors = {f"t.{kind.name}": (numbers_of(4, 64), kind) for kind in kinds}
    tensors |= {"plain": (numbers_of(3, 5), None), "half": (numbers_of(7).astype(np.float16), None)}
    file = written(tmp_path / "x.gguf", tensors)
    theirs = {one.name: one for one in gguf.GGUFReader(file).tensors}
    ours, read = gguf_headers(file), gguf_tensors(file, tensors)
    assert ours.keys() == theirs.keys()
    for name, tensor in read.items():
        assert ours[name].shape == tuple(tensor.shape) == tuple(reversed(theirs[name].shape.tolist()))
        expected = gguf.quants.dequantize(theirs[name].data, theirs[name].tensor_type).reshape(tensor.shape)
        assert torch.equal(tensor.float(), torch.from_numpy(expected.astype(np.float32)).to(tensor.dtype).float())
    assert {name: header.dtype for name, header in ours.items() if header.dtype != "BF16"} == {"plain": "F32", "half": "F16"}
    assert torch.equal(read["plain"], torch.from_numpy(tensors["plain"][0]))


@pytest.mark.parametrize("kind", [kind for kind in dequantize_functions if kind != Kind.BF16], ids=lambda kind: kind.name)
def test_rounded_numbers_are_those_that_diffusers_computes_with(kind: Any, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(1).integers(0, 256, (2, 2 * size), dtype=np.uint8)
    # Half floats within a block are scales: without their highest bits none is infinite or no number.
    blocks &= 0x3F
    file = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(file, "flux")
    writer.add_tensor("t", blocks, raw_dtype=kind)
    write_gguf(writer)
    theirs = dequantize_gguf_tensor(GGUFParameter(torch.from_numpy(blocks), quant_type=kind))
    ours = gguf_tensors(file, ["t"])["t"]
    assert ours.shape == (2, 2 * block)
    # diffusers multiplies in float16, and what does not fit that is rounded twice.
    assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=2**-7 * float(theirs.abs().max()))


def test_a_shape_that_was_kept_beside_a_tensor_is_its_own(tmp_path: Path) -> None:
    numbers = numbers_of(8, 4, 2, 2)
    fields = {"comfy__gguf__orig_shape__w": [8, 4, 2, 2]}
    file = written(tmp_path / "x.gguf", {"w": (numbers.reshape(8, 16), None)}, **fields)
    assert torch.equal(gguf_tensors(file, ["w"])["w"], torch.from_numpy(numbers))
    with pytest.raises(ConfigError, match=r"stored as \(8, 16\), and its shape is said to be \(8, 4\)"):
        gguf_headers(written(file, {"w": (numbers.reshape(8, 16), None)}, comfy__gguf__orig_shape__w=[8, 4]))


def test_a_file_predicts_what_diffusers_predicts_with_it(tmp_path: Path) -> None:
    base = sd3.save(tmp_path / "base")
    original = original_sd3(weights(base, "transformer"))
    rounded = {
        name: (tensor.float().numpy(), Kind.Q8_0 if tensor.ndim == 2 and tensor.shape[-1] % 32 == 0 else Kind.F32)
        for name, tensor in original.items()
    }
    assert any(kind is Kind.Q8_0 for _, kind in rounded.values())
    file = written(tmp_path / "x.gguf", rounded)
    assert look(str(file)).described()["family"] == "sd3"
    with pytest.raises(ConfigError, match=r"needs replica\.base"):
        find_pipeline(str(file), with_weights=False)
    found = find_pipeline(str(file), with_weights=True, said=Said(base=str(base)))
    found.load(LoadOptions(device="cpu", resolution_px=64))
    config = GGUFQuantizationConfig(compute_dtype=torch.bfloat16)
    options = {"config": str(base), "subfolder": "transformer", "quantization_config": config, "torch_dtype": torch.bfloat16}
    theirs = SD3Transformer2DModel.from_single_file(str(file), **options)
    ours = SD3Transformer2DModel.from_pretrained(found.path, subfolder="transformer", torch_dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_states": (2, 16, 8, 8), "encoder_hidden_states": (2, 9, sd3.JOINT)}
    shapes |= {"pooled_projections": (2, 2 * sd3.PROJECTED)}
    inputs = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    with torch.no_grad():
        one, two = (model(**inputs, timestep=torch.tensor([300.0, 700.0])).sample for model in (ours, theirs))
    # diffusers multiplies scales in float16 before it rounds to bfloat16.
    assert float((one - two).float().norm() / two.float().norm()) < 2**-7
    assert all(not torch.equal(weights(found.path, "transformer")[name], one) for name, one in _linear(base).items())


def _linear(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that are rounded, of the blocks."""
    return {name: one for name, one in weights(folder, "transformer").items() if name.endswith(".ff.net.2.weight")}


def header(tensors: int = 1, fields: int = 0, version: int = 3, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def tensor(name: bytes, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin like one"),
        (b"GGML" + bytes(64), "does not begin like one"),
        (header(version=1), "version 1; expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (header(tensors=2**60), "tensors and 0 fields; expected at most"),
        (header(fields=2**60), "fields; expected at most"),
        (header(0, 1, rest=struct.pack("<Q", 2**63)), "a text of 9223372036854775808 bytes; the header is cut"),
        (header(0, 1, rest=text(b"a") + struct.pack("<IIQ", 9, 4, 2**62)), "values; expected at most"),
        (header(0, 1, rest=text(b"a") + struct.pack("<IIQ", 9, 8, 2**62)), "an array of 4611686018427387904 values"),
        (header(0, 1, rest=text(b"a") + struct.pack("<IIQ", 9, 9, 1)), "an array of 1 values of the type 9"),
        (header(0, 1, rest=text(b"a") + struct.pack("<I", 77)), "a field of the unknown type 77"),
        (header(0, 1, rest=text(b"\xff\xfe")), "can't decode"),
        (header(), "unpack"),
        (header(rest=tensor(b"a", 4)[:-4]), "unpack"),
        (header(rest=tensor(b"a", 4)), "upon another, or cut"),
        (header(rest=tensor(b"a", 2**40, 2**40) + bytes(64)), "upon another, or cut"),
        (header(2, rest=tensor(b"a", 4) + tensor(b"a", 4) + bytes(64)), "the tensor a stands twice"),
        (header(2, rest=tensor(b"a", 4) + tensor(b"b", 4) + bytes(256)), "the tensor b stands at"),
        (header(rest=tensor(b"a", *range(1, 10))), "has 9 dimensions"),
        (header(rest=tensor(b"a", 33, kind=8) + bytes(256)), r"has the shape \(33,\), in blocks of 32"),
        (header(rest=tensor(b"a", 0) + bytes(256)), r"has the shape \(0,\)"),
        (header(rest=tensor(b"a", 4, kind=999) + bytes(256)), "999 is not a valid"),
        (header(1, 1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0) + tensor(b"a", 4)), "general.alignment is 0"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line_and_at_once(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        gguf_headers(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_that_no_reader_knows_is_named_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(header(rest=tensor(b"a", 4, kind=Kind.I32.value) + bytes(256)))
    assert gguf_headers(file)["a"].shape == (4,)
    with pytest.raises(ConfigError, match="a tensor cannot be read"):
        gguf_tensors(file, ["a"])
