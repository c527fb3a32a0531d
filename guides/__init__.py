"""Guides: the variational families q(response | prompt), one a file, and their registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guides.fine_tuned import FineTuned, FineTunedOptions
from guides.fixed import Fixed
from guides.guide import Guide
from guides.lora import LoRA, LoRAOptions
from guides.mean_field import MeanField
from guides.mixture import MixtureOptions, mixture_of
from guides.n_gram import NGram, NGramOptions
from guides.recurrent import Recurrent, RecurrentOptions
from guides.soft_prompt import SoftPrompt, SoftPromptOptions
from guides.tabular import Tabular
from guides.tempered import Tempered, TemperedOptions
from guides.twisted import Twisted, TwistedOptions
from model import LanguageModel, Prompts


@dataclass(frozen=True)
class Family:
    """Entry of the registry of guides. Calling the entry builds a guide.

    Attributes:
        make: Builds a guide from the prior, the prompts if `takes_prompts`, and options.
        learning_rate: Peak rate of Adam that suits the embedded prior; 0 if nothing trains.
        learning_rates: Rates that replace `learning_rate`, by the option and its value.
        options: Dataclass of the options of a command line, each with its help; None if none.
        takes_prompts: True if the guide is built for a fixed set of prompts.
        has_hidden: True if the guide reveals hidden states, which a value function reads.
        has_twist: True if the guide reveals a twist, which contrastive twist learning trains.
        can_merge: True if `merged` turns the guide into a language model of its own.
    """

    make: Callable[..., Guide]
    summary: str
    learning_rate: float = 0.0
    learning_rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    options: type | None = None
    takes_prompts: bool = False
    has_hidden: bool = False
    has_twist: bool = False
    can_merge: bool = False

    @property
    def trains(self) -> bool:
        """True if the guide has parameters that train."""
        return self.learning_rate > 0

    def __call__(self, prior: LanguageModel, prompts: Prompts, **options: Any) -> Guide:
        arguments = (prior, prompts) if self.takes_prompts else (prior,)
        return self.make(*arguments, **options)

    def rate(self, options: Mapping[str, Any]) -> float:
        """Learning rate that suits a guide with these options."""
        rates = self.learning_rates
        return next((rates[item] for item in options.items() if item in rates), self.learning_rate)


GUIDES: dict[str, Family] = {
    "fine-tuned": Family(
        FineTuned,
        "a copy of the prior, all its weights free or some of them",
        8e-5,
        {("subset", "last-layers"): 3e-4, ("subset", "norms-and-biases"): 3e-3},
        FineTunedOptions,
        has_hidden=True,
    ),
    "lora": Family(
        LoRA,
        "low-rank adapters on the prior's own weights",
        3e-3,
        options=LoRAOptions,
        has_hidden=True,
        can_merge=True,
    ),
    "soft-prompt": Family(
        SoftPrompt,
        "learned virtual tokens before the prompt, read by the prior's own weights",
        3e-3,
        {("kind", "prefix"): 1e-2},
        SoftPromptOptions,
        has_hidden=True,
    ),
    "twisted": Family(
        Twisted,
        "value-guided decoding: the prior's next token, reweighted by a small head on its states",
        3e-3,
        options=TwistedOptions,
        has_hidden=True,
        has_twist=True,
    ),
    "recurrent": Family(
        Recurrent, "a GRU from scratch", 3e-3, options=RecurrentOptions, has_hidden=True
    ),
    "n-gram": Family(
        NGram, "a table for each context of n - 1 tokens, from scratch", 0.1, options=NGramOptions
    ),
    "mean-field": Family(
        MeanField, "a table for each position, from scratch", 0.1, takes_prompts=True
    ),
    "tabular": Family(
        Tabular, "a table for each prefix, where responses can be listed", 0.1, takes_prompts=True
    ),
    "mixture": Family(
        mixture_of,
        "several guides with learned weights",
        8e-5,
        {("component", "lora"): 3e-3, ("component", "recurrent"): 3e-3}
        | {("component", "mean-field"): 0.1},
        MixtureOptions,
        takes_prompts=True,
    ),
    "tempered": Family(
        Tempered,
        "the prior at another temperature; not trained",
        options=TemperedOptions,
        has_hidden=True,
    ),
    "fixed": Family(Fixed, "the prior itself; not trained", has_hidden=True),
}
"""Families by name. Calling an entry with the prior, the prompts and options builds a guide."""
