"""Registry of the variational families, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guides.fine_tuned import FineTuned
from guides.fixed import Fixed
from guides.guide import Guide
from guides.lora import LoRA
from guides.mean_field import MeanField
from guides.mixture import mixture_of
from guides.n_gram import NGram
from guides.recurrent import Recurrent
from guides.soft_prompt import soft_prompt_of
from guides.tabular import Tabular
from guides.tempered import Tempered
from guides.twisted import Twisted
from model import LanguageModel, Prompts


@dataclass(frozen=True)
class Family:
    """Entry of the registry of guides. Calling the entry builds a guide.

    Attributes:
        make: Builds a guide from the prior, the prompts if `takes_prompts`, and options,
            keyword-only arguments with a default. A command line has their help from the docstring.
        trains: True if the guide has parameters that train.
        takes_prompts: True if the guide is built for a fixed set of prompts.
        has_hidden: True if the guide reveals hidden states, which a value function reads.
        has_twist: True if the guide reveals a twist, which contrastive twist learning trains.
        can_merge: True if `merged` turns the guide into a language model of its own.
        library: Name of the library whose format the saved files have.
        loaded_with: Options that replace the saved options where a saved guide is loaded.
    """

    make: Callable[..., Guide]
    summary: str
    trains: bool = True
    takes_prompts: bool = False
    has_hidden: bool = False
    has_twist: bool = False
    can_merge: bool = False
    library: str = "elbo-rl"
    loaded_with: dict[str, Any] = field(default_factory=dict)

    def __call__(self, prior: LanguageModel, prompts: Prompts, **options: Any) -> Guide:
        arguments = (prior, prompts) if self.takes_prompts else (prior,)
        return self.make(*arguments, **options)


GUIDES: dict[str, Family] = {
    "fine-tuned": Family(
        FineTuned,
        "a copy of the prior, all its weights free or some of them",
        has_hidden=True,
        library="transformers",
    ),
    "lora": Family(
        LoRA,
        "low-rank adapters on the prior's own weights",
        has_hidden=True,
        can_merge=True,
        library="peft",
    ),
    "soft-prompt": Family(
        soft_prompt_of,
        "learned virtual tokens before the prompt, read by the prior's own weights",
        takes_prompts=True,
        has_hidden=True,
        library="peft",
        loaded_with={"match_steps": 0},
    ),
    "twisted": Family(
        Twisted,
        "value-guided decoding: the prior's next token, reweighted by a small head on its states",
        has_hidden=True,
        has_twist=True,
    ),
    "recurrent": Family(Recurrent, "a GRU from scratch", has_hidden=True),
    "n-gram": Family(NGram, "a table for each context of n - 1 tokens, from scratch"),
    "mean-field": Family(MeanField, "a table for each position, from scratch", takes_prompts=True),
    "tabular": Family(
        Tabular, "a table for each prefix, where responses can be listed", takes_prompts=True
    ),
    "mixture": Family(mixture_of, "several guides with learned weights", takes_prompts=True),
    "tempered": Family(
        Tempered, "the prior at another temperature; not trained", trains=False, has_hidden=True
    ),
    "fixed": Family(Fixed, "the prior itself; not trained", trains=False, has_hidden=True),
}
"""Families by name. Calling an entry with the prior, the prompts and options builds a guide."""
