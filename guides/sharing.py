"""Copies that share tensors with the original, so that the prior's weights are in memory once."""

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

from model import LanguageModel

M = TypeVar("M", bound=nn.Module)


def copy_sharing(module: M, shared: Iterable[Tensor]) -> M:
    """Copy a module with all its submodules, but share the tensors in `shared` with the original.

    Changes to the copy's modules, such as inserted adapters, leave the original unchanged. Moving
    a shared parameter to another device or type moves the parameter in both modules.
    """
    priors = [part for part in module.modules() if isinstance(part, LanguageModel)]
    parts = [part for prior in priors for part in (prior.tokenizer, prior.space.end_ids)]
    return copy.deepcopy(module, {id(part): part for part in [*shared, *parts]})
