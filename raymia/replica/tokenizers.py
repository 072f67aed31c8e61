"""Tokenizers of a pipeline folder: whether one is whole and fits its text encoder, found out by using it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raymia.errors import ConfigError, first_line
from raymia.replica.conditioning import token_ids
from raymia.replica.parts import Parts

PROMPTS = ("", "a photograph of two small boats")
MAX_TOKENS = 4096
"""Length of texts where the text encoder has no largest one of its own."""
TEMPLATES = "additional_chat_templates"
"""Folder within a tokenizer's that may hold templates of chats which are taken in the place of its own."""
CHANGING = r"\b(?:random|lipsum)\b"
"""What a template of chats may ask for that is another thing in the next call."""
CLOCK = "strftime_now"
"""What it may ask for that is another thing on another day, of which none may come into the text."""
OTHER_DAY = f"{{%- macro {CLOCK}(format) -%}}another day{{%- endmacro %}}\n"
"""Before a template, sets its clock."""
UNMADE = (*(f"<0x{byte:02X}>" for byte in range(256)), "[toxicity=0]", "<unused99>")
"""Tokens of vocabularies that SentencePiece learned which no merge makes: of bytes that it has no other token for, and those of
Gemma's that no text is made of."""
FILLED = 0.9
"""Share of a text encoder's vocabulary that its tokenizer has at least; the rest rounds it up for the hardware."""


def tokenizer_of(loaded: Any) -> Any:
    """The tokenizer itself, of one or of a processor that has one."""
    return getattr(loaded, "tokenizer", loaded)


def check_tokenizer(parts: Parts, part: str, encoder: Mapping[str, Any], length: int | None = None) -> None:
    """Refuse a tokenizer that is not whole, or whose texts its encoder cannot take.

    Args:
        parts: of the pipeline.
        part: folder of the tokenizer, or of a processor that has one.
        encoder: config of the text encoder, with the values of its class where it is silent.
        length: that the family pads texts to; none for the tokenizer's own.

    Raises:
        ConfigError: names the folder and what does not fit.
    """
    place, tokenizer = parts.folder / part, tokenizer_of(parts.tokenizer(part))
    _check_vocabulary(place, tokenizer, int(encoder["vocab_size"]))
    _check_merges(place, tokenizer)
    longest = int(encoder.get("max_position_embeddings") or MAX_TOKENS)
    length = tokenizer.model_max_length if length is None else length
    if not isinstance(length, int) or not 2 <= length <= longest:
        # A very large number is the library's way to say that the file is silent.
        shown = "missing" if isinstance(length, int) and length > 10**9 else repr(length)
        raise ConfigError(
            f"{place}/tokenizer_config.json: model_max_length is {shown}; expected the length that texts are padded to, "
            f"2 to {longest} as the text encoder takes"
        )
    try:
        shape = tuple(token_ids(tokenizer, PROMPTS, length).shape)
    except Exception as error:
        # Whatever the library makes of somebody else's tokenizer.
        raise ConfigError(f"{place}: cannot pad a text to {length} tokens ({first_line(error)})") from error
    if shape != (len(PROMPTS), length):
        raise ConfigError(f"{place}: gives {shape[-1]} tokens of a text; expected {length}")


def _check_vocabulary(place: Path, tokenizer: Any, size: int) -> None:
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    largest = max(vocabulary.values(), default=-1)
    if largest >= size:
        raise ConfigError(
            f"{place}: has a token of number {largest}, but the text encoder's vocab_size is {size}; it is another model's"
        )
    if len(vocabulary) < FILLED * size:
        raise ConfigError(
            f"{place}: has {len(vocabulary)} of the {size} tokens of the text encoder's vocabulary; files of it are missing, "
            "or it is another model's"
        )
    several = [token for token in added if token.endswith("_1") and token[:-2] in added]
    if several:
        raise ConfigError(
            f"{place}: {several[0]} is a further token of {several[0][:-2]}, as textual inversion adds; that is not supported"
        )


def _check_merges(place: Path, tokenizer: Any) -> None:
    """Refuse byte-pair encoding whose merges do not make every token of the vocabulary: their list was cut."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE":
        return
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    made = {"".join(pair) for pair in pairs} | set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
    if model.get("byte_fallback"):
        made |= set(UNMADE)
    ending = re.escape(model.get("end_of_word_suffix") or "")
    lost = [token for token in model["vocab"] if token not in made and not re.fullmatch(f".(?:{ending})?", token, re.DOTALL)]
    if lost:
        raise ConfigError(f"{place}: no merge makes the token {lost[0]!r} and {len(lost) - 1} more; the list of merges is cut")


def as_chat(tokenizer: Any, prompt: str, template: str | None = None, thinking: bool = True) -> str:
    """A prompt as the words of a user whom an assistant is to answer, by the tokenizer's own template.

    Args:
        tokenizer: of transformers, which fills in templates in a sandbox.
        prompt: as it stands.
        template: in the place of the tokenizer's own.
        thinking: whether the assistant thinks.
    """
    words = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(
        words, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return text


def check_chat(parts: Parts, part: str, chat: Callable[[Any, str, str | None], str] = as_chat) -> None:
    """Refuse a tokenizer whose template of chats makes no text of a prompt, or not always the same.

    Args:
        parts: of the pipeline, with the tokenizer loaded.
        part: folder of the tokenizer, or of a processor that has one.
        chat: makes the family's text of a prompt; takes the tokenizer, the prompt and a template in the place of its own.

    Raises:
        ConfigError: names the folder and what is wrong with its template.
    """
    place, tokenizer = parts.folder / part, parts.loaded[part]
    if (place / TEMPLATES).exists():
        raise ConfigError(f"{place}/{TEMPLATES}: several templates of chats; expected chat_template.jinja alone")
    try:
        own = tokenizer.chat_template
        template: str = own["default"] if isinstance(own, dict) else own
        texts = [chat(tokenizer, prompt, None) for prompt in PROMPTS]
        elsewhen = [chat(tokenizer, prompt, OTHER_DAY + template) for prompt in PROMPTS] if CLOCK in template else texts
    except Exception as error:
        # Whatever the library makes of somebody else's template.
        raise ConfigError(
            f"{place}: makes no chat of a prompt ({first_line(error)}); expected a chat_template.jinja that does"
        ) from error
    changing = re.findall(CHANGING, template) + [CLOCK] * (elsewhen != texts)
    if changing:
        raise ConfigError(f"{place}: its template of chats asks for {changing[0]}, so that no score could be had twice")
    lost = [prompt for prompt, text in zip(PROMPTS, texts, strict=True) if prompt not in text]
    if lost:
        raise ConfigError(f"{place}: its template of chats leaves out the prompt {lost[0]!r}; expected one that holds it")
