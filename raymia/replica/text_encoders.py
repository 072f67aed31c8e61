"""Hidden states of the text encoders that several families have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from raymia.replica.conditioning import token_ids


def clip_states(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """States of CLIP's last layer but one, and its pooled and projected vector, of prompts padded to the tokenizer's length.

    Args:
        tokenizer: CLIP's.
        encoder: a CLIPTextModelWithProjection.
        prompts: one for each row; (batch, tokens, width) and (batch, projected) come out.
    """
    output = encoder(token_ids(tokenizer, prompts, device=encoder.device), output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


def t5_states(tokenizer: Any, encoder: Any, prompts: Sequence[str], length: int) -> Tensor:
    """(batch, length, width) last states of T5 for prompts padded and cut to a length, padding among them."""
    states: Tensor = encoder(token_ids(tokenizer, prompts, length, encoder.device))[0]
    return states
