"""A batch of responses: the prompt of each, the decoder, and the passes of the decoder that score.

`ResponseDistribution` has the batch shape, the checks and the interface of Pyro. Behind it are jobs
that know a batch of B responses alone: these passes, with gradient; the draws (`decode.py`); and a
function of the B responses, part by part (`chunks.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.common.graphs import sizes_of_graphs
from model.common.sharded_tensors import largest_of_ranks
from model.prior.decoder import Decoder
from model.prior.division import Block, Division
from model.prior.drawn_responses import known_lengths
from model.prior.logits import CHUNK, log_softmax, of_states, scaled, token_log_prob
from model.prior.prompts import Prompts
from model.prior.response_space import ResponseSpace

OfOwn = Callable[[Tensor], Tensor]
"""A function from a tensor of all responses, `[B, ...]`, to those of a rank, `[B', ...]`."""


class Start(NamedTuple):
    """One pass over N prompts: logits `[N, V]` of the first token, and the state after the pass."""

    logits: Tensor
    state: Any


@dataclass(frozen=True, eq=False)
class Batch:
    """B responses to N prompts.

    Attributes:
        decoder: the autoregressive model.
        prompts: N prompts.
        rows: `[B]`, prompt of each response, from 0 to N - 1.
        space: the set of responses.
        temperature: divides the logits.
        start: the pass over the prompts; None before the pass.
        micro_batch: most responses that are read with gradient at a time; None for all.
        division: division of the responses over ranks; None for one rank.
        num_tokens: most tokens of a response of a chunk, whose lengths were read; None if unknown.
    """

    decoder: Decoder
    prompts: Prompts
    rows: Tensor
    space: ResponseSpace
    temperature: float = 1.0
    start: Start | None = None
    micro_batch: int | None = None
    division: Division | None = None
    num_tokens: int | None = None

    def part(
        self,
        prompts: Prompts,
        rows: Tensor,
        start: Start | None = None,
        num_tokens: int | None = None,
    ) -> "Batch":
        """Responses to other prompts, which `start` has read, as one part: not divided further."""
        new = replace(self, prompts=prompts, rows=rows, start=start, num_tokens=num_tokens)
        return replace(new, micro_batch=None, division=None)

    def by_ranks(
        self, function: Callable[["Batch", OfOwn], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """A function of the batch, computed by each rank for its own responses.

        The B responses are to the N prompts in their order, K times.

        Args:
            function: takes the batch of the B' responses of a rank, and a function from tensors
                `[B, ...]` to `[B', ...]`; returns tensors `[B', ...]`.

        Returns:
            The tensors `[B, ...]` on every rank.
        """
        assert self.division is not None
        num_prompts = len(self.prompts)

        def of_block(block: Block) -> tuple[Tensor, ...]:
            def own(tensor: Tensor) -> Tensor:
                grid = tensor.unflatten(0, (-1, num_prompts))
                return grid[block.particles, block.prompts].flatten(0, 1)

            is_whole = block.prompts == slice(None)
            prompts = self.prompts if is_whole else self.prompts[block.prompts]
            rows = own(self.rows) - own(self.rows).min()
            part = self.part(prompts, rows, self.start if is_whole else None)
            results = function(replace(part, micro_batch=self.micro_batch), own)
            return tuple(tensor.unflatten(0, (-1, len(prompts))) for tensor in results)

        sizes = len(self.rows) // num_prompts, num_prompts
        grid = self.division.compute(of_block, *sizes, even=self.decoder.in_step)
        return tuple(tensor.flatten(0, 1) for tensor in grid)

    def read_prompts(self) -> Start:
        """The pass over the prompts."""
        return self.start or Start(*self.decoder.start(self.prompts))

    @property
    def reads_whole(self) -> bool:
        """True if each response is read together with its prompt, which nothing has read yet."""
        return self.start is None and self.decoder.is_faster_whole(self.prompts, len(self.rows))

    def lengths(self, value: Tensor) -> list[int]:
        """Number of tokens of each response `[B, T]`, as far as chunks may depend on it.

        One number for all responses whose passes are recorded, so that chunks have few sizes.
        """
        if self.decoder.in_step:
            return [value.shape[1]] * len(value)
        known = known_lengths(value, self.space)
        lengths = self.space.is_token(value).sum(1).tolist() if known is None else known
        size = self.micro_batch or len(self.rows)
        if self.decoder.records and self.decoder.is_faster_whole(self.prompts, size):
            return [max(lengths, default=0)] * len(lengths)
        return lengths

    def longest(self, is_token: Tensor) -> int:
        """Most tokens of a response, for the mask `[B, T]`; over all ranks that run in step.

        One of few numbers for a pass that is recorded.
        """
        longest = self.num_tokens
        if longest is None:
            number = is_token.any(0).sum()
            longest = int(largest_of_ranks(number) if self.decoder.in_step else number)
        if self.decoder.records and self.reads_whole:
            sizes = sizes_of_graphs(is_token.shape[1])
            return next(size for size in sizes if size >= longest)
        return longest

    def log_prob_per_token(self, value: Tensor) -> tuple[Tensor, Any]:
        """log p(x_t | prompt, x_<t) of B responses, nats, and the decoder's state after the pass.

        The pass ends at the last position of any token.

        Returns:
            `[B, T]`, 0 at padding; the state, None if all responses have one token, or if the
            prompts have not been read.
        """
        is_token = self.space.is_token(value)
        longest = self.longest(is_token)
        decoder, size = self.decoder, self.space.vocab_size

        def log_prob_of_state(hidden: Tensor, ids: Tensor) -> Tensor:
            """log p of the tokens `ids` `[C]` after hidden states `[C, H]`, nats, `[C]`."""
            return token_log_prob(decoder.logits_of(hidden), ids, self.temperature)

        if self.reads_whole and longest > 1:
            ids = value[:, :longest]
            hidden = decoder.states_before(self.prompts, self.rows, ids)
            return _fill(of_states(log_prob_of_state, hidden, ids, size), is_token), None
        first, state = self.read_prompts()
        # [N, V], before the particles of a prompt share it
        log_first = log_softmax(first, self.temperature)
        per_token = log_first[self.rows, value[:, 0]][:, None]
        if longest <= 1:
            return _fill(per_token, is_token), None
        read, ids = value[:, : longest - 1], value[:, 1:longest]
        state = state.select(self.rows)
        if ids.numel() * size > CHUNK and decoder.splits_head:
            state = decoder.extend_states(state, read)
            later = of_states(log_prob_of_state, state.hidden, ids, size)
        else:
            logits, state = decoder.extend(state, read)
            later = token_log_prob(logits, ids, self.temperature)
        return _fill(torch.cat([per_token, later], 1), is_token), state

    def log_prob_and_hidden(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob_per_token`, and the states below the logits, `[B, T, H]`; 0 at padding."""
        batch = replace(self, start=self.read_prompts())
        per_token, state = batch.log_prob_per_token(value)
        hidden = [_hidden(batch.read_prompts().state)[batch.rows, -1:]]
        if state is not None:
            hidden.append(_hidden(state))
        return per_token, _fill(torch.cat(hidden, 1), batch.space.is_token(value))

    def next_token_logits(self, value: Tensor) -> tuple[Tensor]:
        """Logits of each token of B responses, over the temperature, `[B, T, V]`; 0 at padding."""
        is_token = self.space.is_token(value)
        first, state = self.read_prompts()
        logits = first[self.rows, None]
        longest = self.longest(is_token)
        if longest > 1:
            state = state.select(self.rows)
            later, _ = self.decoder.extend(state, value[:, : longest - 1])
            logits = torch.cat([logits, later], 1)
        return (_fill(scaled(logits, self.temperature), is_token),)


def _fill(values: Tensor, is_token: Tensor) -> Tensor:
    """`values` `[B, L, ...]` widened to T positions, 0 wherever `is_token` `[B, T]` is False."""
    num_missing = is_token.shape[1] - values.shape[1]
    if num_missing:
        zeros = values.new_zeros(len(values), num_missing, *values.shape[2:])
        values = torch.cat([values, zeros], 1)
    mask = is_token.view(is_token.shape + (1,) * (values.dim() - 2))
    return values.masked_fill(~mask, 0.0)


def _hidden(state: Any) -> Tensor:
    if not hasattr(state, "hidden"):
        raise TypeError(
            f"{type(state).__name__} has no `hidden`, expected the state of a decoder such as "
            "`LanguageModel`. Choose an objective without a head on the guide's states"
        )
    return state.hidden
