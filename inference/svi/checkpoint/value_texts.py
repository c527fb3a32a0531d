"""Texts of plain values, tensors and tokenizers, the same in every process."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedTokenizerBase

from model.common.files import tensors_digest, text_digest

_TEXTS = WeakIdKeyDictionary()  # versions and texts of tensors and tokenizers


def plain(value: Any) -> str:
    """Text of a number, to 9 digits, or of another plain value."""
    value = value.item() if isinstance(value, np.generic) else value
    return repr(float(f"{value:.9g}") if isinstance(value, float) else value)


def digest(tensor: Tensor) -> str:
    """Digest of the numbers of a tensor."""
    version = -1 if tensor.is_inference() else tensor._version
    return _once(tensor, version, lambda: f"#{tensors_digest([('', tensor)])}")


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of vocabulary, rules, special tokens and chat template."""

    def text() -> str:
        content: Any = sorted(tokenizer.get_vocab().items())
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            content = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        whole = [content, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
        return f"#{text_digest(json.dumps(whole, sort_keys=True, default=str))}"

    return _once(tokenizer, 0, text)


def _once(value: Any, version: int, text: Callable[[], str]) -> str:
    """Text of a large object, which is computed once for each version of the object."""
    if _TEXTS.get(value, (None, ""))[0] != version:
        _TEXTS[value] = version, text()
    return _TEXTS[value][1]
