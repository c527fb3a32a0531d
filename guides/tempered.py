"""Tempered: q(x_t | x_<t)^(1/temperature) of another guide, normalised; not trained."""

from guides.fixed import Fixed
from guides.guide import Guide
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import positive


class Tempered(Guide):
    """An autoregressive guide or language model with its logits divided by one more number.

    Args:
        source: A `LanguageModel`, or a guide, whose trained weights are copied.
        temperature: Number that divides the logits: above 1 the guide is more spread out than its
            source, below 1 more concentrated.
    """

    def __init__(self, source: Guide | LanguageModel, *, temperature: float = 1.5) -> None:
        super().__init__()
        self.source = Fixed(source)
        self.temperature = positive("temperature", temperature)

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        distribution = self.source.distribution(prompts)
        if not isinstance(distribution, ResponseDistribution):
            kind = type(distribution).__name__
            fault = f"`Tempered` got a guide with a {kind}"
            raise TypeError(f"{fault}, expected a `ResponseDistribution`")
        return distribution.at_temperature(distribution.temperature * self.temperature)
