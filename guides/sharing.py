"""Copies that share tensors with the original, so that a guide on the prior's weights takes no second copy of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

from model import LanguageModel

M = TypeVar("M", bound=nn.Module)


def copy_sharing(module: M, shared: Iterable[Tensor]) -> M:
    """A copy with submodules of its own, whose tensors among `shared` are the very ones of the original.

    What is done to the copy's modules, such as inserting adapters, leaves the original as it is. Moving shared parameters to
    another device or type moves them in both.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
    tokenizers = [part.tokenizer for part in module.modules() if isinstance(part, LanguageModel)]
    return copy.deepcopy(module, memo | {id(tokenizer): tokenizer for tokenizer in tokenizers})
