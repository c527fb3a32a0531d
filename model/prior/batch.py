"""A batch of responses: the prompt of each, and the decoder that draws and scores them.

`ResponseDistribution` has the batch shape, the checks and the interface of Pyro. Behind it are jobs
that know a batch of B responses alone:

    drawing.py, scoring.py          the passes of the decoder over the B responses
    chunks.py, by_micro_batches.py  a function of the B responses, part by part
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from model.common.sharded_tensors import largest_of_ranks
from model.prior.decoder import Decoder
from model.prior.division import Block, Division
from model.prior.drawn_responses import known_lengths
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
        """Number of tokens of each response `[B, T]`, as far as chunks may depend on it."""
        if self.decoder.in_step:
            return [value.shape[1]] * len(value)
        known = known_lengths(value, self.space)
        return self.space.is_token(value).sum(1).tolist() if known is None else known

    def longest(self, is_token: Tensor) -> int:
        """Most tokens of a response, for the mask `[B, T]`; over all ranks that run in step."""
        if self.num_tokens is not None:
            return self.num_tokens
        longest = is_token.any(0).sum()
        return int(largest_of_ranks(longest) if self.decoder.in_step else longest)
