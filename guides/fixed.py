"""Fixed: q is another distribution over responses, such as the prior; a proposal, not trained."""

from collections.abc import Callable

import transformers
from pyro.distributions import TorchDistribution
from torch import nn
from torch.distributions import Distribution

from guides.guide import Guide, copy_sharing
from model import LanguageModel, Prompts
from model.common.checks import instance


class Fixed(Guide):
    """A guide as it is now, a language model, or a function, without parameters that train.

    Args:
        source: A guide, a `LanguageModel` or another function from prompts to a distribution.
            Trained weights of a module are copied; weights of a function are not registered.
    """

    def __init__(
        self, source: Guide | LanguageModel | Callable[[Prompts], TorchDistribution]
    ) -> None:
        super().__init__()
        if isinstance(source, type | transformers.PreTrainedModel) or not callable(source):
            got = source if isinstance(source, str | type) else type(source).__name__
            expected = "a guide, a `LanguageModel` or a function of prompts"
            raise TypeError(f"source is {got}, expected {expected}")
        if isinstance(source, nn.Module) and any(p.requires_grad for p in source.parameters()):
            frozen = [parameter for parameter in source.parameters() if not parameter.requires_grad]
            source = copy_sharing(source, frozen).requires_grad_(False)
        self.source = source

    def distribution(self, prompts: Prompts) -> TorchDistribution:
        if isinstance(self.source, Guide):
            return self.source.distribution(prompts)
        return instance("what source returned", self.source(prompts), Distribution)
