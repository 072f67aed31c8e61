"""Tokenizers that are not whole, or not their encoder's; what a cut one would do in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.testbed.architecture import new_tokenizer
from tests.replica.damaged import change, copied


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return copied(tiny, tmp_path / "pipeline")


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(folder), with_weights=False)


def test_a_vocabulary_larger_than_the_encoders_is_another_models(folder: Path) -> None:
    new_tokenizer(["other words make other tokens entirely, and more of them"]).save_pretrained(folder / "tokenizer")
    refused(folder, r"tokenizer: has a token of number \d+, but the text encoder's vocab_size is 532")


def test_a_tokenizer_without_its_files_is_not_taken_for_an_empty_one(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert len(CLIPTokenizer.from_pretrained(folder / "tokenizer")) < 10, "the library makes one of nothing"
    refused(folder, r"tokenizer: has \d of the 532 tokens of the text encoder's vocabulary")


def test_a_list_of_merges_that_was_cut_is_found(folder: Path) -> None:
    before = CLIPTokenizer.from_pretrained(folder / "tokenizer")("picture").input_ids
    edited(folder, lambda content: content["model"].update(merges=content["model"]["merges"][:-5]))
    assert CLIPTokenizer.from_pretrained(folder / "tokenizer")("picture").input_ids != before, "in silence"
    refused(folder, "no merge makes the token .* and 4 more; the list of merges is cut")


def test_vocabulary_and_merges_in_files_of_their_own_are_taken_and_missed(folder: Path) -> None:
    content = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    (folder / "tokenizer" / "tokenizer.json").unlink()
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    find_pipeline(str(folder), with_weights=False)
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges[: len(merges) // 2], ""]))
    refused(folder, "no merge makes the token")
    (folder / "tokenizer" / "merges.txt").unlink()
    refused(folder, "tokenizer: cannot be loaded as a CLIPTokenizer")


def test_a_token_that_is_to_fill_texts_up_must_be_there(folder: Path) -> None:
    change(folder / "tokenizer" / "tokenizer_config.json", pad_token=None)
    refused(folder, "tokenizer: cannot pad a text to 32 tokens")


def test_tokens_that_a_pipeline_would_put_in_for_others_are_refused(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["<cat-toy>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    change(folder / "text_encoder" / "config.json", vocab_size=534)
    refused(folder, r"embeddings.token_embedding.weight is \(532, 64\) in the weights and \(534, 64\)")
    tokenizer.add_tokens(["<cat-toy>_1"])
    tokenizer.save_pretrained(folder / "tokenizer")
    refused(folder, "<cat-toy>_1 is a further token of <cat-toy>, as textual inversion adds; that is not")
