"""Control tokens: what of a text would a tokenizer take for more than text?

A tokenizer marks where a text begins, ends or has a gap by tokens of its own, such as [SEP] or </s>. Who
types their names means these letters, and a text is read to its end whatever stands in it. Transformers does
so with `split_special_tokens`.
"""

from __future__ import annotations

from typing import Any


def keep_as_text(tokenizer: Any) -> Any:
    """The tokenizer, which now takes what looks like a control token as text, unless a call asks else."""
    tokenizer.split_special_tokens = True
    return tokenizer


def control_tokens(text: str, tokenizer: Any) -> tuple[str, ...]:
    """What in a text looks like a special token of this tokenizer."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(token for token in dict.fromkeys((*tokenizer.all_special_tokens, *added)) if token in text)
