"""Fixed: q is any other distribution over responses, not trained; the prior itself, say, as a proposal."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions import TorchDistribution
from torch import nn
from transformers import PreTrainedModel

from guides.guide import Guide
from guides.sharing import copy_sharing
from model import LanguageModel, Prompts


class Fixed(Guide):
    """Another guide as it is now, or a language model.

    Args:
        source: a guide, a `LanguageModel` or any other function from prompts to a distribution over responses. Of a module's
            weights that train a copy is taken; of other functions' Pyro is not told.
    """

    def __init__(
        self, source: Guide | LanguageModel | Callable[[Prompts], TorchDistribution]
    ) -> None:
        super().__init__()
        if isinstance(source, type | PreTrainedModel) or not callable(source):
            raise TypeError(
                f"source is {source if isinstance(source, str | type) else type(source).__name__}, expected a guide, a "
                "`LanguageModel`, which `LanguageModel.from_pretrained` loads, or a function of prompts"
            )
        if isinstance(source, nn.Module) and any(
            parameter.requires_grad for parameter in source.parameters()
        ):
            frozen = [parameter for parameter in source.parameters() if not parameter.requires_grad]
            source = copy_sharing(source, frozen).requires_grad_(False)
        self.source = source

    def distribution(self, prompts: Prompts) -> TorchDistribution:
        return (
            self.source.distribution(prompts)
            if isinstance(self.source, Guide)
            else self.source(prompts)
        )
