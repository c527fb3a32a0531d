"""The guides that are compared: a family of the registry with options, and the learning rates that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guides import GUIDES, Guide
from model import LanguageModel, Prompts


@dataclass(frozen=True)
class Variant:
    """A guide by name.

    Attributes:
        family: its name in `GUIDES`.
        options: its keyword arguments.
        listed_rate: peak of Adam's rate on `eight-tokens`, of those tried the one that left least; None: it is not run there.
        text_rate: the same on `film-reviews`.
        objective: another than the usual one.
        num_starts: of the descent to the family's own optimum, where there are local ones.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    listed_rate: float | None = None
    text_rate: float | None = None
    objective: str | None = None
    num_starts: int = 1

    def __call__(self, prior: LanguageModel, prompts: Prompts) -> Guide:
        return GUIDES[self.family](prior, prompts, **self.options)


def _mean_fields(number: int) -> dict[str, Any]:
    return {"component": "mean-field", "num_components": number, "noise": 0.5}


def _scales(
    family: str, options: Mapping[str, Any], listed_rate: float | None, objective: str | None = None
) -> Variant:
    """A guide that is run on text as well, at the rate that suits it there."""
    return Variant(family, options, listed_rate, GUIDES[family].rate(dict(options)), objective)


VARIANTS: dict[str, Variant] = {
    "tabular": Variant("tabular", {}, 0.1),
    "fine-tuned": _scales("fine-tuned", {}, 5e-4),
    "last-layers": _scales("fine-tuned", {"subset": "last-layers"}, 1e-3),
    "norms-and-biases": _scales("fine-tuned", {"subset": "norms-and-biases"}, 1e-2),
    "lora-1": Variant("lora", {"rank": 1}, 1e-2, 1e-2),
    "lora-8": _scales("lora", {"rank": 8}, 3e-3),
    "prompt": _scales("soft-prompt", {"kind": "prompt"}, 1e-1),
    "prefix": _scales("soft-prompt", {"kind": "prefix"}, 1e-1),
    "twisted": _scales("twisted", {}, 1e-2),
    "contrastive-twist": _scales("twisted", {}, None, "contrastive-twist"),
    "fine-tuned-2": _scales("mixture", {"component": "fine-tuned"}, None),
    "recurrent": Variant("recurrent", {}, 3e-2),
    "2-gram": Variant("n-gram", {"n": 2}, 0.1),
    "mean-fields-4": Variant("mixture", _mean_fields(4), 0.3, num_starts=3),
    "mean-fields-2": Variant("mixture", _mean_fields(2), 0.3, num_starts=6),
    "mean-field": Variant("mean-field", {}, 0.1, num_starts=6),
    "1-gram": Variant("n-gram", {"n": 1}, 0.1),
}
"""By name; numbers are of the rank, of components, and of n."""
