"""n-gram: q(x) = prod_t softmax(table[x_{t-n+1}, ..., x_{t-1}])[x_t], by the last n - 1 tokens."""

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, Rows, like
from model import LanguageModel, Prompts
from model.common.checks import whole_number

MAX_PARAMETERS = 200_000_000
LONGEST = 64  # tokens; the table of a longer context is too large for any vocabulary


class NGram(FromScratch):
    """A categorical distribution for each context of n - 1 tokens, prompt included; starts uniform.

    Args:
        prior: See `FromScratch`.
        n: Length n of the n-grams: 1, one distribution for all tokens; 2, one for each token
            before.

    Raises:
        ValueError: If n is too long, or the table would be too large.
    """

    def __init__(self, prior: LanguageModel, *, n: int = 2) -> None:
        super().__init__(prior)
        self.n = whole_number("n", n, at_most=LONGEST)
        num_contexts = (self.vocab_size + 1) ** (self.n - 1)
        size = num_contexts * self.vocab_size
        if size > MAX_PARAMETERS:
            table = f"with {self.vocab_size} token ids a table of {size:.3g} numbers"
            raise ValueError(f"n is {n}, {table}: expected at most {MAX_PARAMETERS:,} numbers")
        self.table = nn.Parameter(like(prior).new_zeros(num_contexts, self.vocab_size))

    def start(self, prompts: Prompts) -> tuple[Tensor, Rows]:
        # [N, n - 1], `vocab_size` where there is no token
        ids = prompts.ids.masked_fill(~prompts.mask, self.vocab_size)
        ids = nn.functional.pad(ids, (self.n, 0), value=self.vocab_size)
        context = ids[:, ids.shape[1] - self.n + 1 :]
        return self._logits(context)[:, -1], Rows((context,))

    def extend(self, state: Rows, ids: Tensor) -> tuple[Tensor, Rows]:
        sequence = torch.cat([*state, ids], 1)
        return self._logits(sequence)[:, 1:], Rows((sequence[:, ids.shape[1] :],))

    def _logits(self, sequence: Tensor) -> Tensor:
        """Logits after each window of n - 1 tokens, `[B, n - 1 + L]` -> `[B, L + 1, V]`."""
        if self.n == 1:
            return self.table[0].expand(len(sequence), sequence.shape[1] + 1, -1)
        place = (self.vocab_size + 1) ** torch.arange(self.n - 1, device=sequence.device)
        return self.table[(sequence.unfold(1, self.n - 1, 1) * place).sum(-1)]
