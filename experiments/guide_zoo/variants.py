"""Guides of the zoo: families of the registry with options, and learning rates that suit them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guides import GUIDES, Guide
from model import LanguageModel, Prompts


@dataclass(frozen=True)
class Variant:
    """A guide by name.

    Attributes:
        family: a name in `GUIDES`.
        options: options of the family.
        listed_rate: peak of Adam's learning rate on `eight-tokens`, the best of several tried;
            None for a guide that is not compared there.
        text_rate: peak learning rate on `film-reviews`; None for a guide that is not compared.
        objective: a name in `OBJECTIVES`, in place of the objectives of the two KL.
        num_starts: number of starts of the search for the optimum of the family.
        contains_posterior: True if the posterior is in the family.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    listed_rate: float | None = None
    text_rate: float | None = None
    objective: str | None = None
    num_starts: int = 1
    contains_posterior: bool = False

    def __call__(self, prior: LanguageModel, prompts: Prompts) -> Guide:
        return GUIDES[self.family](prior, prompts, **self.options)


def _on_text(
    family: str, options: Mapping[str, Any], listed_rate: float | None, objective: str | None = None
) -> Variant:
    """A guide that runs on text too, at the rate that the registry has for these options."""
    return Variant(family, options, listed_rate, GUIDES[family].rate(options), objective)


def _mean_fields(num_components: int, num_starts: int) -> Variant:
    options = {"component": "mean-field", "num_components": num_components, "noise": 0.5}
    return Variant("mixture", options, 0.3, num_starts=num_starts)


VARIANTS: dict[str, Variant] = {
    "tabular": Variant("tabular", {}, 0.1, contains_posterior=True),
    "fine-tuned": _on_text("fine-tuned", {}, 5e-4),
    "last-layers": _on_text("fine-tuned", {"subset": "last-layers"}, 1e-3),
    "norms-and-biases": _on_text("fine-tuned", {"subset": "norms-and-biases"}, 1e-2),
    "lora-1": Variant("lora", {"rank": 1}, 1e-2, 1e-2),
    "lora-8": _on_text("lora", {"rank": 8}, 3e-3),
    "prompt": _on_text("soft-prompt", {"kind": "prompt"}, 1e-1),
    "prefix": _on_text("soft-prompt", {"kind": "prefix"}, 1e-1),
    "twisted": _on_text("twisted", {}, 1e-2),
    "contrastive-twist": _on_text("twisted", {}, None, "contrastive-twist"),
    "fine-tuned-2": _on_text("mixture", {"component": "fine-tuned"}, None),
    "recurrent": Variant("recurrent", {}, 3e-2),
    "2-gram": Variant("n-gram", {"n": 2}, 0.1),
    "mean-fields-4": _mean_fields(4, num_starts=3),
    "mean-fields-2": _mean_fields(2, num_starts=6),
    "mean-field": Variant("mean-field", {}, 0.1, num_starts=6),
    "1-gram": Variant("n-gram", {"n": 1}, 0.1),
}
"""Guides by name. A number in a name is the rank, the number of components, or n."""
