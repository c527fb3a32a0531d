"""Mean field: q(x) = prod_t softmax(logits_t)[x_t], each position independent of all others."""

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, PromptIndex, Rows, like
from model import LanguageModel, Prompts


class MeanField(FromScratch):
    """A categorical distribution for each position of each prompt's response; starts uniform.

    End ids are tokens like all others: a response is cut at the first of them.

    Args:
        prior: See `FromScratch`.
        prompts: All prompts that the guide will be called with.
    """

    def __init__(self, prior: LanguageModel, prompts: Prompts) -> None:
        super().__init__(prior)
        self.index = PromptIndex(prompts)
        self.space.check(prompts)
        shape = (len(self.index), self.max_new_tokens, self.vocab_size)
        self.logits = nn.Parameter(like(prior).new_zeros(shape))

    def start(self, prompts: Prompts) -> tuple[Tensor, Rows]:
        prompt = self.index(prompts)
        return self.logits[prompt, 0], Rows((prompt, torch.zeros_like(prompt)))

    def extend(self, state: Rows, ids: Tensor) -> tuple[Tensor, Rows]:
        prompt, num_read = state
        position = num_read[:, None] + torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return self.logits[prompt[:, None], position], Rows((prompt, num_read + ids.shape[1]))
