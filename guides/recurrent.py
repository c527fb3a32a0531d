"""Recurrent: q(x) = prod_t softmax(W h_t)[x_t], h_t = GRU(h_{t-1}, x_{t-1}) (Cho et al. 2014, arXiv 1406.1078)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guides.from_scratch import FromScratch, like
from model import LanguageModel, Prompts
from model.common.checks import whole_number

WIDEST = 65_536  # numbers; wider than any network it could be of use beside


@dataclass(frozen=True)
class GRUState:
    """What the GRU remembers of B sequences.

    Attributes:
        memory: `[layers, B, H]`.
        hidden: `[B, L, H]`, the last layer's outputs for the L tokens read last.
    """

    memory: Tensor
    hidden: Tensor

    def select(self, rows: Tensor) -> GRUState:
        return GRUState(self.memory[:, rows], self.hidden[rows])


@dataclass(frozen=True)
class RecurrentOptions:
    """Options of `Recurrent`."""

    embedding_size: int = 32
    """Width of the embedding of a token."""

    hidden_size: int = 64
    """Width H of the GRU's hidden state."""

    num_layers: int = 1
    """Number of GRU layers."""


class Recurrent(FromScratch):
    """A GRU that reads prompt and response, its weights random at the start: it knows nothing of the prior.

    Args:
        prior: gives the vocabulary and the length.
        embedding_size: numbers by which a token is read.
        hidden_size: H.
        num_layers: of the GRU.
    """

    def __init__(
        self,
        prior: LanguageModel,
        *,
        embedding_size: int = 32,
        hidden_size: int = 64,
        num_layers: int = 1,
    ) -> None:
        super().__init__(prior)
        sizes = {
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
        }
        embedding_size, hidden_size, num_layers = (
            whole_number(name, size, at_most=WIDEST) for name, size in sizes.items()
        )
        self.embedding = nn.Embedding(self.vocab_size, embedding_size).to(like(prior))
        self.gru = nn.GRU(embedding_size, hidden_size, num_layers, batch_first=True).to(like(prior))
        self.head = nn.Linear(hidden_size, self.vocab_size).to(like(prior))

    def start(self, prompts: Prompts) -> tuple[Tensor, GRUState]:
        lengths = prompts.mask.sum(1)
        num_columns = prompts.ids.shape[1]
        shift = (
            torch.arange(num_columns, device=lengths.device) - lengths[:, None]
        ) % num_columns  # padding to the right
        embedded = self.embedding(prompts.ids.gather(1, shift))
        packed = nn.utils.rnn.pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        with torch.backends.cudnn.flags(
            enabled=False
        ):  # it goes back in training mode alone, where a guide never is
            _, memory = self.gru(packed)
        hidden = memory[-1][:, None]
        return self.head(hidden)[:, -1], GRUState(memory, hidden)

    def extend(self, state: GRUState, ids: Tensor) -> tuple[Tensor, GRUState]:
        with torch.backends.cudnn.flags(enabled=False):
            hidden, memory = self.gru(self.embedding(ids), state.memory.contiguous())
        return self.head(hidden), GRUState(memory, hidden)
