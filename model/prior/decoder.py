"""The base of an autoregressive model, which `ResponseDistribution` samples and scores.

A decoder must have `start` and `extend`. All other members have defaults, which are correct for any
decoder and slow for a large network.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from model.prior.prompts import Prompts


class Decoder(nn.Module, ABC):
    """An autoregressive model: next-token logits, and a state to continue from.

    `state.select(rows)` is the state of the sequences at `rows` `[B']`, repeats allowed. A state
    may have `hidden`, the last hidden layer of the L tokens read last, `[B, L, H]`, for objectives
    with a head on the guide's states.
    """

    @abstractmethod
    def start(self, prompts: Prompts) -> tuple[Tensor, Any]:
        """Read N prompts: logits `[N, V]` of the first token, and the state of N sequences."""

    @abstractmethod
    def extend(self, state: Any, ids: Tensor) -> tuple[Tensor, Any]:
        """Append `ids` `[B, L]`: logits `[B, L, V]` of the token after each, and the new state.

        The state passed in may be used up.
        """

    # logits apart from states: scoring without the logits of all tokens in memory at once

    @property
    def splits_head(self) -> bool:
        """True if `extend_states` and `logits_of` work."""
        return False

    def extend_states(self, state: Any, ids: Tensor) -> Any:
        """`extend` without logits: a state whose `hidden` `[B, L, H]` has theirs."""
        raise NotImplementedError

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Logits `[C, V]` of hidden states `[C, H]`, one state at a time."""
        raise NotImplementedError

    # prompts and responses in one pass

    def is_faster_whole(self, prompts: Prompts, num_responses: int) -> bool:
        """True if `states_before` is faster than a pass over the prompts and one over responses."""
        return False

    def states_before(self, prompts: Prompts, rows: Tensor, ids: Tensor) -> Tensor:
        """Hidden states before each token of responses, by one pass over prompts and responses.

        Args:
            prompts: N prompts.
            rows: `[B]`, prompt of each response.
            ids: `[B, L]`, first tokens of the responses.

        Returns:
            `[B, L, H]`, the states that `logits_of` takes.
        """
        raise NotImplementedError

    # draws

    def decoding(self, num_tokens: int = 0) -> AbstractContextManager[Any]:
        """Context of the passes of a decode, which read one token of each sequence.

        Args:
            num_tokens: most passes; 0 if the passes are compiled.
        """
        return nullcontext()

    def drawing(self) -> AbstractContextManager[Any]:
        """Context of a draw, of the passes over the prompts and of all its decodes."""
        return nullcontext()

    @property
    def compile_decode(self) -> bool:
        """True to draw by a `CompiledStep`, for a state that is a `CachedState`."""
        return False

    @property
    def records(self) -> bool:
        """True if passes of few shapes are faster: `states_before` records them."""
        return False

    # memory and processes

    @property
    def room(self) -> int | None:
        """Number of tokens, of prompts and responses, that may be read together without gradient.

        None without a limit.
        """
        return None

    @property
    def in_step(self) -> bool:
        """True if all ranks must run the same passes, because they share the weights."""
        return False
