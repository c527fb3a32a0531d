"""The protocol of an autoregressive model, which `ResponseDistribution` samples and scores."""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from model.prior.prompts import Prompts


class Decoder(Protocol):
    """An autoregressive model: next-token logits, and a state to continue from.

    `state.select(rows)` is the state of the sequences at `rows` `[B']`, repeats allowed. A state
    may have `hidden`, the last hidden layer of the L tokens read last, `[B, L, H]`.
    """

    @abstractmethod
    def start(self, prompts: Prompts) -> tuple[Tensor, Any]:
        """Read N prompts: logits `[N, V]` of the first token, and the state of N sequences."""

    @abstractmethod
    def extend(self, state: Any, ids: Tensor) -> tuple[Tensor, Any]:
        """Append `ids` `[B, L]`: logits `[B, L, V]` of the token after each, and the new state.

        The state passed in may be used up.
        """


@runtime_checkable
class SplitsHead(Protocol):
    """A decoder whose logits are a function of its hidden states, one state at a time.

    Responses are then scored without the logits of all tokens in memory at once.

    Attributes:
        splits_head: True if the two methods work.
    """

    splits_head: bool

    @abstractmethod
    def extend_states(self, state: Any, ids: Tensor) -> Any:
        """`Decoder.extend` without logits: a state whose `hidden` `[B, L, H]` has theirs."""

    @abstractmethod
    def logits_of(self, hidden: Tensor) -> Tensor:
        """Logits `[C, V]` of hidden states `[C, H]`."""


@runtime_checkable
class RevealsTwist(Protocol):
    """A decoder whose distribution is the prior reweighted by exp(psi) at every token."""

    def log_twist(self, prompts: Prompts, response: Tensor) -> Tensor:
        """psi(x_<=t), nats, with gradient: `[..., N, T]` for `[..., N, T]`; 0 at padding."""
