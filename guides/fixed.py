"""Fixed: q is any other distribution over responses, not trained; the prior itself, say, as a proposal."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions import TorchDistribution

from guides.guide import Guide
from guides.sharing import copy_sharing
from model import LanguageModel, Prompts


class Fixed(Guide):
    """Another guide as it is now, or a language model.

    Args:
        source: a guide, of whose trained weights a copy is taken; a `LanguageModel`; or any other function from prompts to a
            distribution over responses, whose parameters, if it has any, Pyro is not told of.
    """

    def __init__(self, source: Guide | LanguageModel | Callable[[Prompts], TorchDistribution]) -> None:
        super().__init__()
        if isinstance(source, Guide):
            frozen = [parameter for parameter in source.parameters() if not parameter.requires_grad]
            source = copy_sharing(source, frozen).requires_grad_(False)
        self.source = source

    def distribution(self, prompts: Prompts) -> TorchDistribution:
        return self.source.distribution(prompts) if isinstance(self.source, Guide) else self.source(prompts)
