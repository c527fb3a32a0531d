"""Decode: the responses of a batch drawn token by token, until all have ended.

    x_t ~ p(. | prompt, x_<t),   t = 1 .. min(T, first end)

On a GPU the loop reads a value of a tensor every 16 tokens: a read waits for the device, which
then has no work. Up to 15 tokens after the last end are computed for nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.common import ranks
from model.common.devices import generator_state, is_asynchronous, set_generator_state
from model.common.sharded_tensors import largest_of_ranks
from model.prior.batch import Batch, OfOwn
from model.prior.chunks import parts
from model.prior.compiled_step import compiled_step
from model.prior.decoder import Decoder
from model.prior.logits import NAN_LOGITS, NaNLogitsError, draw_token, uniform_numbers
from model.prior.response_space import ResponseSpace

INTERVAL = 16
"""Number of tokens from one check of ends and NaN to the next on an asynchronous device. On the CPU
every token is checked."""
DROP = 0.75
"""Largest share of unfinished sequences in a decode at which the finished sequences are dropped.
Dropping copies the cache of the others."""


class Prefix(NamedTuple):
    """Tokens of B responses that are given."""

    value: Tensor  # `[B, T]`, token ids
    length: Tensor  # `[B]`, number of tokens of each response that are given


class Decode:
    """Responses `[B, T]`, drawn chunk by chunk.

        decode = Decode(decoder, space, 1.0, rows)
        decode.run(logits, state, torch.arange(len(rows)))
        decode.response, decode.log_prob

    The random numbers of a response depend neither on chunks nor on the interval of the checks, and
    neither does the state of torch's generator after `finish`.

    Args:
        decoder: the autoregressive model.
        space: the set of responses.
        temperature: divides the logits.
        rows: `[B]`, prompt of each response.
        prefix: tokens that are given; default none.

    Attributes:
        response: `[B, T]`, token ids, padding where no token has been drawn.
        log_prob: `[B, T]`, log-probability of each token under its distribution, nats, float64, 0
            at padding. A given token has the log-probability of the token drawn in its place.
        lengths: number of tokens of each response, after `finish`.
    """

    def __init__(
        self,
        decoder: Decoder,
        space: ResponseSpace,
        temperature: float,
        rows: Tensor,
        prefix: Prefix | None = None,
    ) -> None:
        self.decoder, self.space, self.temperature = decoder, space, temperature
        self.rows, self.prefix = rows, prefix
        shape = (len(rows), space.max_new_tokens)
        self.response = rows.new_full(shape, space.pad_id)
        self.log_prob = torch.zeros(shape, dtype=torch.float64, device=rows.device)
        self.lengths: list[int] = []
        self._uniform = _UniformNumbers(len(rows), rows.device)
        self._interval = INTERVAL if is_asynchronous(rows.device) else 1

    def run(self, logits: Tensor, state: Any, active: Tensor) -> None:
        """Draw the responses at `active` `[B']`.

        Args:
            logits: `[B', V]`, logits of the first token.
            state: the decoder's state of the B' sequences after their prompts.
            active: places of the responses in the batch.

        Raises:
            NaNLogitsError: if the logits of a token are NaN.
        """
        ended = torch.zeros_like(active, dtype=torch.bool)
        for t, unchecked in self._positions():
            token, ended = self._draw(logits, ended, active, t)
            if unchecked is not None:
                num_left, most_left = self._num_unfinished(ended, active, unchecked)
                if most_left == 0:
                    return
                if 0 < num_left <= DROP * len(ended):
                    left = (~ended).nonzero().squeeze(1)
                    state, active, token = state.select(left), active[left], token[left]
                    ended = ended[left]
            logits, state = self.decoder.extend(state, token[:, None])
            logits = logits[:, -1]

    def run_compiled(self, logits: Tensor, state: Any, rows: Tensor, active: Tensor) -> None:
        """Draw the responses at `active` `[B']` by a `CompiledStep`; see `run`.

        Args:
            logits: `[N', V]`, logits of the first token after each of N' prompts.
            state: the decoder's state of N' sequences after their prompts.
            rows: `[B']`, prompt of each response, from 0 to N' - 1.
            active: places of the responses in the batch.
        """
        step = compiled_step(self.decoder, self.space, self.temperature, logits, state, len(active))
        prefix = self.prefix and Prefix(*(part[active] for part in self.prefix))
        with step.decoding:
            step.load(logits, state, rows, prefix)
            for t, unchecked in self._positions():
                step.uniform[t] = self._uniform[t][active]
                if t + 1 == self.space.max_new_tokens:
                    step.draw()
                else:
                    step(self.decoder)
                if unchecked is not None:
                    self.response[active, unchecked] = step.response[:, unchecked]
                    self.log_prob[active, unchecked] = step.log_prob[:, unchecked]
                    if self._num_unfinished(step.ended, active, unchecked)[1] == 0:
                        return

    def _positions(self) -> Iterator[tuple[int, slice | None]]:
        """Positions of tokens; with the positions since the last check where a check is due."""
        start, num_tokens = 0, self.space.max_new_tokens
        for t in range(num_tokens):
            is_due = t + 1 == num_tokens or (t + 1) % self._interval == 0
            yield t, slice(start, t + 1) if is_due else None
            start = t + 1 if is_due else start

    def finish(self) -> None:
        """Leave the generator as after the positions of the longest response, whoever drew it."""
        if self._interval == 1 or ranks.num_ranks() > 1:  # else the last check has read them
            self.lengths = self._num_tokens().tolist()
        self._uniform.leave_at(max(self.lengths, default=0))

    def _num_tokens(self) -> Tensor:
        """Number of tokens of each response, `[B]`."""
        return self.space.is_token(self.response).sum(1)

    def _draw(self, logits: Tensor, ended: Tensor, active: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Draw the tokens at t. Returns token ids `[B']`, and True for responses that have ended.

        Nothing in here may wait for the device.
        """
        token, log_p = draw_token(logits, self.temperature, self._uniform[t][active])
        if self.prefix is not None:
            value, length = self.prefix
            token = torch.where(t < length[active], value[active, t], token)
        token = token.masked_fill(ended, self.space.pad_id)
        self.response[active, t] = token
        self.log_prob[active, t] = log_p.double().masked_fill(ended, 0.0)
        return token, ended | self.space.is_end(token)

    def _num_unfinished(self, ended: Tensor, active: Tensor, unchecked: slice) -> tuple[int, int]:
        """Number of unfinished responses here, and the largest over ranks that run in step.

        Checks the unchecked positions for NaN. The numbers are 0 after the last position. On a GPU
        the one wait brings the lengths too, which are those of `finish` after the last check.
        """
        is_nan = self.log_prob[active, unchecked].isnan()
        numbers = torch.stack([(~ended).sum(), is_nan.sum()])
        largest = largest_of_ranks(numbers) if self.decoder.in_step else numbers
        lengths = self._num_tokens() if self._interval > 1 else numbers[:0]
        read = torch.cat([numbers, largest, lengths]).tolist()
        num_left, num_nan, most_left, most_nan, *self.lengths = read
        if num_nan:
            t, place = is_nan.t().nonzero()[0].tolist()
            response, t = int(active[place]), unchecked.start + t
            prompt = int(self.rows[response])
            raise NaNLogitsError(
                f"response {response}, to prompt {prompt}, token {t}: {NAN_LOGITS}"
            )
        if most_nan:
            raise NaNLogitsError(f"a response of another rank: {NAN_LOGITS}")
        is_last = unchecked.stop == self.space.max_new_tokens
        return (0, 0) if is_last else (num_left, most_left)


class _UniformNumbers:
    """Numbers between 0 and 1 for B responses, one position after the other, `[B]` each.

    A position is drawn from torch's generator when it is reached.
    """

    def __init__(self, num_responses: int, device: torch.device) -> None:
        self._num_responses, self._device = num_responses, device
        self._state = generator_state(device)
        self._drawn: list[Tensor] = []

    def __getitem__(self, t: int) -> Tensor:
        while t >= len(self._drawn):
            self._drawn.append(uniform_numbers(self._num_responses, self._device))
        return self._drawn[t]

    def leave_at(self, num_positions: int) -> None:
        """Leave the generator as after `num_positions` positions."""
        if num_positions:
            self[num_positions - 1]
        if len(self._drawn) > num_positions:
            set_generator_state(self._device, self._state)
            for _ in range(num_positions):
                uniform_numbers(self._num_responses, self._device)


def draw(batch: Batch, prefix: Prefix | None = None) -> Decode:
    """The finished decode of the B responses of a batch, whose first tokens may be given."""
    rows = batch.rows
    decode = Decode(batch.decoder, batch.space, batch.temperature, rows, prefix)
    every = torch.arange(len(rows), device=rows.device)
    if batch.division is None:
        _run(decode, batch, every)
    else:

        def run_own(part: Batch, own: OfOwn) -> tuple[Tensor, ...]:
            _run(decode, part, own(every))
            return own(decode.response), own(decode.log_prob)

        decode.response, decode.log_prob = batch.by_ranks(run_own)
    decode.finish()
    return decode


def _run(decode: Decode, batch: Batch, places: Tensor) -> None:
    """Draw the B' responses of a batch, at `places` `[B']` of a decode."""
    decoder = batch.decoder
    with decoder.drawing():
        for chunk, part in parts(batch, [batch.space.max_new_tokens] * len(batch.rows)):
            first, state = part.read_prompts()
            active = places if chunk is None else places[chunk]
            if decoder.compile_decode:
                decode.run_compiled(first, state, part.rows, active)
            else:
                with decoder.decoding(batch.space.max_new_tokens):
                    decode.run(first[part.rows], state.select(part.rows), active)
