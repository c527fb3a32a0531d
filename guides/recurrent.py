"""Recurrent: a GRU with state h_t, x_t ~ softmax(W h_t) (Cho et al. 2014, arXiv 1406.1078)."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, like
from model import LanguageModel, Prompts
from model.common.checks import whole_number

WIDEST = 65_536  # wider than any network beside which the guide could be of use


class GRUState(NamedTuple):
    """`memory` `[layers, B, H]` of B sequences; `hidden` `[B, L, H]` of the L tokens read last."""

    memory: Tensor
    hidden: Tensor

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.memory[:, rows], self.hidden[rows])


class Recurrent(FromScratch):
    """A GRU that reads prompt and response; starts at random weights, independent of the prior.

    Args:
        prior: See `FromScratch`.
        embedding_size: Width of the embedding of a token.
        hidden_size: Width H of the GRU's hidden state.
        num_layers: Number of GRU layers.
    """

    splits_head = True

    def __init__(
        self,
        prior: LanguageModel,
        *,
        embedding_size: int = 32,
        hidden_size: int = 64,
        num_layers: int = 1,
    ) -> None:
        super().__init__(prior)
        embedding_size = whole_number("embedding_size", embedding_size, at_most=WIDEST)
        hidden_size = whole_number("hidden_size", hidden_size, at_most=WIDEST)
        num_layers = whole_number("num_layers", num_layers, at_most=WIDEST)
        self.embedding = nn.Embedding(self.vocab_size, embedding_size).to(like(prior))
        self.gru = nn.GRU(embedding_size, hidden_size, num_layers, batch_first=True).to(like(prior))
        self.head = nn.Linear(hidden_size, self.vocab_size).to(like(prior))

    def start(self, prompts: Prompts) -> tuple[Tensor, GRUState]:
        lengths, num_columns = prompts.mask.sum(1), prompts.ids.shape[1]
        # padding goes from the left to the right
        shift = torch.arange(num_columns, device=lengths.device) - lengths[:, None]
        embedded = self.embedding(prompts.ids.gather(1, shift % num_columns))
        pack = nn.utils.rnn.pack_padded_sequence
        packed = pack(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        # cudnn differentiates in training mode alone, and a guide is always in evaluation mode
        with torch.backends.cudnn.flags(enabled=False):
            _, memory = self.gru(packed)
        hidden = memory[-1][:, None]
        return self.head(hidden)[:, -1], GRUState(memory, hidden)

    def extend(self, state: GRUState, ids: Tensor) -> tuple[Tensor, GRUState]:
        state = self.extend_states(state, ids)
        return self.head(state.hidden), state

    def extend_states(self, state: GRUState, ids: Tensor) -> GRUState:
        with torch.backends.cudnn.flags(enabled=False):
            hidden, memory = self.gru(self.embedding(ids), state.memory.contiguous())
        return GRUState(memory, hidden)

    def logits_of(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)
