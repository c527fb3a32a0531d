"""One token of a decode, compiled: the same operations on the same buffers for every token.

    draw x_t from the logits  ->  write x_t  ->  read x_t  ->  logits of x_{t+1}

On a GPU the step is recorded as a CUDA graph, and each replay is one launch in place of hundreds.
There is a graph for each of a few numbers of columns, so that the first tokens of a response do not
read the room for the last. On the CPU `torch.compile` compiles the step. A decode by either has the
random numbers of a plain decode, and therefore its draws, up to rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro.distributions.util import is_validation_enabled, validation_enabled
from torch import Tensor

from model.common.graphs import NOT_COMPILED, has_graphs, lasting, record, sizes_of_graphs
from model.networks.layers.packed_layers import Decoding
from model.prior.cached_state import CachedState
from model.prior.decoder import Decoder
from model.prior.fixed_state import FixedState
from model.prior.logits import draw_token
from model.prior.response_space import ResponseSpace

ROUND = 32
"""Columns of prompt and response are rounded up to a multiple of this number, so that prompts of
several lengths share a compiled step."""
MOST_STEPS = 4
"""Largest number of compiled steps of a decoder. The oldest step makes room for a new step, with
its keys and values."""
_STEPS: WeakKeyDictionary[Any, dict[Any, "CompiledStep"]] = WeakKeyDictionary()


class CompiledStep:
    """Buffers of B responses, and the step that draws their next token.

        step = compiled_step(decoder, space, 1.0, logits, state, num_rows=32)
        with step.decoding:
            step.load(logits, state, rows)
            step.uniform.copy_(torch.rand(space.max_new_tokens, 32))
            step(decoder)
        step.response[:, 0]

    Args:
        decoder, space, temperature: see `Decode`.
        logits: `[N, V]`, logits whose data type the buffers copy.
        state: state after the prompts, whose layers the buffers copy in shape.
        num_rows: B, number of responses.
        num_columns: C, see `FixedState`.

    Attributes:
        response: `[B, T]`, token ids drawn so far.
        log_prob: `[B, T]`, log-probabilities of these tokens, nats, float64, 0 at padding.
        ended: `[B]`, True for responses that have ended.
        uniform: `[T, B]`, random numbers, which the caller writes before the step.
        decoding: context of the steps of one batch of responses.
    """

    def __init__(
        self,
        decoder: Decoder,
        space: ResponseSpace,
        temperature: float,
        logits: Tensor,
        state: CachedState,
        num_rows: int,
        num_columns: int,
    ) -> None:
        self.space, self.temperature = space, temperature
        self.state = FixedState(state, num_rows, num_columns)
        shape = (num_rows, space.max_new_tokens)
        self.response = torch.zeros(shape, dtype=torch.long, device=logits.device)
        self.log_prob = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        self.uniform = self.log_prob.t().contiguous()
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=logits.device)
        self._given, self._num_given = self.response.clone(), self.response[:, 0].clone()
        self._t = self.response.new_zeros(1)
        self._logits = logits.new_zeros(num_rows, logits.shape[1])
        self.decoding = decoder.decoding()
        self._num_read = 0
        self._pool: Any = None
        self._compiled: dict[int, Callable[[CompiledStep, Decoder], None]] = {}

    def load(
        self,
        logits: Tensor,
        state: CachedState,
        rows: Tensor,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Begin responses to the prompts at `rows` `[B]`.

        Args:
            logits: `[N, V]`, logits of the first token after each of N prompts.
            state: state of N sequences after the prompts.
            rows: `[B]`, prompt of each response.
            prefix: tokens that are given, `[B, T]`, and the number given for each response, `[B]`.
        """
        self._logits.copy_(logits[rows])
        self.state.load(state, rows)
        self._num_read = state.num_read
        self.response.fill_(self.space.pad_id)
        for buffer in (self.log_prob, self.ended, self._t, self._num_given):
            buffer.zero_()
        if prefix is not None:
            given, num_given = prefix
            self._given.copy_(given)
            self._num_given.copy_(num_given)

    def __call__(self, decoder: Decoder) -> None:
        """Draw the tokens at t, and compute the logits of the tokens at t + 1."""
        self._num_read += 1
        extent = next(number for number in self.extents() if number >= self._num_read)
        if extent in self._compiled:
            self._compiled[extent](self, decoder)
        else:
            self.state.extent = extent
            self._draw_and_read(decoder)

    def extents(self) -> list[int]:
        """Numbers of columns for which there is a compiled step, rising up to C."""
        num_columns = self.state.positions.shape[1]
        return sizes_of_graphs(num_columns) if has_graphs(self._t.device) else [num_columns]

    def draw(self) -> Tensor:
        """Draw and write the tokens at t, `[B]`. Nothing in here may wait for the device."""
        uniform = self.uniform.index_select(0, self._t).squeeze(0)
        token, log_p = draw_token(self._logits, self.temperature, uniform)
        given = self._given.index_select(1, self._t).squeeze(1)
        token = torch.where(self._t < self._num_given, given, token)
        token = token.masked_fill(self.ended, self.space.pad_id)
        log_p = log_p.double().masked_fill(self.ended, 0.0)
        self.response.index_copy_(1, self._t, token[:, None])
        self.log_prob.index_copy_(1, self._t, log_p[:, None])
        self.ended.logical_or_(self.space.is_end(token))
        self._t.add_(1)
        return token

    def _draw_and_read(self, decoder: Decoder) -> None:
        token = self.draw()
        logits, _ = decoder.extend(self.state, token[:, None])
        self._logits.copy_(logits[:, -1])

    def compile(self, decoder: Decoder, num_read: int) -> None:
        """Compile the steps after `num_read` columns that are not compiled yet.

        Overwrites the buffers, so that `load` must follow.
        """
        extents, most = self.extents(), num_read + self.space.max_new_tokens - 1
        largest = next(number for number in extents if number >= most)
        for extent in extents:
            if not num_read < extent <= largest or extent in self._compiled:
                continue
            self.state.extent = extent
            if has_graphs(self._t.device):
                with self.decoding:
                    graph = self._recorded(decoder)
                if not self._compiled and isinstance(self.decoding, Decoding):
                    self.decoding.record(self._t.device)
                self._compiled[extent] = partial(_replay, graph)
            else:
                compiled = torch.compile(CompiledStep._draw_and_read, dynamic=False)
                self._compiled[extent] = partial(_with_validation, compiled)

    def _recorded(self, decoder: Decoder) -> Any:
        """The step as a graph. The random numbers are in a buffer, and not part of it."""

        def warm_up() -> None:
            self._t.zero_()
            self.state.column.zero_()
            self._draw_and_read(decoder)

        # graphs that run one after the other share the memory of intermediate results
        step = partial(self._draw_and_read, decoder)
        graph, _ = record(step, self._t.device, self._pool, warm_up)
        self._pool = graph.pool()
        return graph


def _replay(graph: Any, step: CompiledStep, decoder: Decoder) -> None:
    graph.replay()


def _with_validation(compiled: Callable[..., None], step: CompiledStep, decoder: Decoder) -> None:
    """Run a compiled step. The compiler switches the checks of all distributions off for good."""
    with validation_enabled(is_validation_enabled()):
        compiled(step, decoder)


def compiled_step(
    decoder: Decoder,
    space: ResponseSpace,
    temperature: float,
    logits: Tensor,
    state: Any,
    num_rows: int,
) -> CompiledStep:
    """The step of a decoder for a batch of this shape, which is compiled at the first call.

    A step belongs to the places of the weights in memory. Weights that change in place, as in
    training, are read by the next replay. Weights that move are compiled again.

    Raises:
        TypeError: if the decoder's state has no buffers of fixed shape.
    """
    if not isinstance(state, CachedState):
        raise TypeError(
            f"{type(decoder).__name__} has the state {type(state).__name__}, expected the keys and "
            f"values of a `LanguageModel`: {NOT_COMPILED}"
        )
    num_columns = -(-state.mask.shape[1] // ROUND) * ROUND
    weights = hash(tuple(p.data_ptr() for p in [*decoder.parameters(), *decoder.buffers()]))
    shape = (num_rows, num_columns, space.max_new_tokens, logits.dtype)
    key = (weights, temperature, space.pad_id, shape)
    steps = _STEPS.setdefault(decoder, {})
    if key not in steps:
        for old in list(steps)[: max(0, len(steps) - MOST_STEPS + 1)]:
            del steps[old]
        sizes = num_rows, num_columns
        with lasting():
            steps[key] = CompiledStep(decoder, space, temperature, logits, state, *sizes)
    with lasting():
        steps[key].compile(decoder, state.num_read)
    return steps[key]
