"""Mean field: q(x) = prod_t softmax(logits_t)[x_t], each position independent of all others."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from guides.from_scratch import FromScratch, like
from guides.prompt_index import PromptIndex
from model import LanguageModel, Prompts


class Place(NamedTuple):
    """The prompt of each of B sequences, `[B]`, and how many tokens have been read."""

    prompt: Tensor
    seen: int

    def select(self, rows: Tensor) -> Place:
        return Place(self.prompt[rows], self.seen)


class MeanField(FromScratch):
    """A free categorical law for each position of each prompt's response; uniform at the start.

    The end is a token like others: a response is cut at the first.

    Args:
        prior: gives the vocabulary and the length.
        prompts: all that the guide will be asked about.
    """

    def __init__(self, prior: LanguageModel, prompts: Prompts) -> None:
        super().__init__(prior)
        self.index = PromptIndex(prompts)
        self.space.check(prompts)
        self.logits = nn.Parameter(
            like(prior).new_zeros(len(self.index), self.max_new_tokens, self.vocab_size)
        )

    def start(self, prompts: Prompts) -> tuple[Tensor, Place]:
        prompt = self.index(prompts)
        return self.logits[prompt, 0], Place(prompt, 0)

    def extend(self, state: Place, ids: Tensor) -> tuple[Tensor, Place]:
        seen = state.seen + ids.shape[1]
        return self.logits[state.prompt, state.seen + 1 : seen + 1], Place(state.prompt, seen)
