"""What we can sample: variational families over responses, one a file, and the registry that scripts and tests go by."""

from collections.abc import Callable
from typing import Any, NamedTuple

from guides.fine_tuned import FineTuned
from guides.fixed import Fixed
from guides.guide import Guide, GuideRegistrationError, OtherGuideError
from guides.lora import LoRA
from guides.mean_field import MeanField
from guides.mixture import Mixture, mixture_of
from guides.n_gram import NGram
from guides.recurrent import Recurrent
from guides.soft_prompt import SoftPrompt
from guides.tabular import Tabular
from guides.tempered import Tempered
from guides.twisted import Twisted, TwistHead
from model import LanguageModel, Prompts


class Family(NamedTuple):
    """An entry of the registry. Calling it makes a guide.

    Attributes:
        make: takes the prior; the prompts if `takes_prompts`; and, by keyword, options of its own.
        summary: one line.
        learning_rate: a peak of Adam's rate that suits the embedded prior; 0 if nothing trains.
        takes_prompts: there is a table for each prompt.
    """

    make: Callable[..., Guide]
    summary: str
    learning_rate: float = 0.0
    takes_prompts: bool = False

    @property
    def trains(self) -> bool:
        """Whether it has anything to train."""
        return self.learning_rate > 0

    def __call__(self, prior: LanguageModel, prompts: Prompts, **options: Any) -> Guide:
        return (
            self.make(prior, prompts, **options)
            if self.takes_prompts
            else self.make(prior, **options)
        )


GUIDES: dict[str, Family] = {
    "fine-tuned": Family(
        FineTuned, "a copy of the prior, all its weights free or some of them", 8e-5
    ),
    "lora": Family(LoRA, "low-rank adapters on the prior's own weights", 3e-3),
    "soft-prompt": Family(
        SoftPrompt,
        "learned virtual tokens before the prompt, read by the prior's own weights",
        3e-3,
    ),
    "twisted": Family(
        Twisted,
        "value-guided decoding: the prior's next token, reweighted by a small head on its states",
        3e-3,
    ),
    "recurrent": Family(Recurrent, "a GRU from scratch", 3e-3),
    "n-gram": Family(NGram, "a table for each context of n - 1 tokens, from scratch", 0.1),
    "mean-field": Family(
        MeanField, "a table for each position, from scratch", 0.1, takes_prompts=True
    ),
    "tabular": Family(
        Tabular, "a table for each prefix, where responses can be listed", 0.1, takes_prompts=True
    ),
    "mixture": Family(mixture_of, "several guides with learned weights", 8e-5, takes_prompts=True),
    "tempered": Family(Tempered, "the prior at another temperature; not trained"),
    "fixed": Family(Fixed, "the prior itself; not trained"),
}
"""By name, what makes a guide when called with the prior, the prompts and its options."""

__all__ = [
    "GUIDES",
    "Family",
    "FineTuned",
    "Fixed",
    "Guide",
    "GuideRegistrationError",
    "LoRA",
    "MeanField",
    "Mixture",
    "NGram",
    "OtherGuideError",
    "Recurrent",
    "SoftPrompt",
    "Tabular",
    "Tempered",
    "TwistHead",
    "Twisted",
    "mixture_of",
]
