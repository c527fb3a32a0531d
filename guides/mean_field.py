"""Mean field: q(x) = prod_t softmax(logits_t)[x_t], each position independent of all others."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from guides.from_scratch import FromScratch, like
from guides.prompt_index import PromptIndex
from model import LanguageModel, Prompts


class Place(NamedTuple):
    """State of B sequences: numbers of their prompts, `[B]`, and the number of tokens read."""

    prompt: Tensor
    num_read: int

    def select(self, rows: Tensor) -> Place:
        return Place(self.prompt[rows], self.num_read)


class MeanField(FromScratch):
    """A categorical distribution for each position of each prompt's response; starts uniform.

    End ids are tokens like all others: a response is cut at the first of them.

    Args:
        prior: Source of the vocabulary and the longest response.
        prompts: All prompts that the guide will be called with.
    """

    def __init__(self, prior: LanguageModel, prompts: Prompts) -> None:
        super().__init__(prior)
        self.index = PromptIndex(prompts)
        self.space.check(prompts)
        shape = (len(self.index), self.max_new_tokens, self.vocab_size)
        self.logits = nn.Parameter(like(prior).new_zeros(shape))

    def start(self, prompts: Prompts) -> tuple[Tensor, Place]:
        prompt = self.index(prompts)
        return self.logits[prompt, 0], Place(prompt, 0)

    def extend(self, state: Place, ids: Tensor) -> tuple[Tensor, Place]:
        num_read = state.num_read + ids.shape[1]
        logits = self.logits[state.prompt, state.num_read + 1 : num_read + 1]
        return logits, Place(state.prompt, num_read)
