"""The distribution of a response given its prompt, for any autoregressive model.

    p(x | prompt) = prod_t p(x_t | prompt, x_<t),   t = 1 .. min(T, first end)

A truncated response has the probability of its prefix, and a row that is no response has
probability 0 (see `ResponseSpace`), so that the probabilities of all rows sum to 1.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from model.common.checks import instance, whole_number
from model.common.provenance import through
from model.common.texts import quoted
from model.common.thread_lock import one_thread
from model.prior.batch import Batch
from model.prior.chunks import Function, by_chunks, by_micro_batches
from model.prior.decode import Prefix, draw
from model.prior.decoder import Decoder
from model.prior.decoder_check import check_contract
from model.prior.division import Division, division
from model.prior.drawn_responses import known_lengths, remember
from model.prior.prompts import Prompts
from model.prior.response_space import ResponseSpace


class ResponseDistribution(TorchDistribution):
    """p(response | prompts): batch shape `[N]` or wider, event shape `[T]`, values are token ids.

    `sample` decodes with a cache and without gradient; `log_prob` is one parallel pass over the
    response, with gradient. Both read each prompt once for all its particles.

        distribution = prior(prompts)
        response = distribution.sample((8,))  # [8, N, T]
        distribution.log_prob(response)  # [8, N], nats

    Where there is no gradient, large batches are read in chunks, so that the memory of a pass does
    not grow with the number of responses. `in_micro_batches` divides passes with gradient too. A
    distribution made inside `divided` draws and scores together with the other ranks.

    Args:
        decoder: the autoregressive model.
        prompts: N prompts.
        space: the set of responses.
        temperature: divides the logits, in `sample` and in `log_prob`.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - Pyro's name and type
    has_rsample = False
    has_enumerate_support = True

    def __init__(
        self,
        decoder: Decoder,
        prompts: Prompts,
        space: ResponseSpace,
        *,
        temperature: float = 1.0,
    ) -> None:
        if not isinstance(decoder, Decoder):
            kind = type(decoder).__name__
            fix = f"derive {kind} from `model.Decoder`, which has a default for all other members"
            raise TypeError(f"decoder is a {kind}, expected a `Decoder`: {fix}")
        space.check(prompts)
        rows = torch.arange(len(prompts), device=prompts.ids.device)
        # a batch whose rows have the batch shape of the distribution
        self._batch = Batch(decoder, prompts, rows, space, temperature, division=division())
        super().__init__(rows.shape, torch.Size([space.max_new_tokens]))

    def __repr__(self) -> str:
        shapes = f"batch_shape={(*self.batch_shape,)}, event_shape={(*self.event_shape,)}"
        return f"{type(self).__name__}({type(self.decoder).__name__}, {shapes})"

    @property
    def decoder(self) -> Decoder:
        """The autoregressive model."""
        return self._batch.decoder

    @property
    def prompts(self) -> Prompts:
        """N prompts."""
        return self._batch.prompts

    @property
    def space(self) -> ResponseSpace:
        """The set of responses."""
        return self._batch.space

    @property
    def temperature(self) -> float:
        """Divisor of the logits."""
        return self._batch.temperature

    @property
    def is_half(self) -> bool:
        """True if a parameter is in half precision: another batch rounds the logits differently."""
        return any(p.dtype.itemsize < torch.float32.itemsize for p in self.decoder.parameters())

    @property
    def division(self) -> Division | None:
        """Division of responses over ranks; None for one rank."""
        return self._batch.division

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        ids = constraints.integer_interval(0, self.space.vocab_size - 1)
        return constraints.independent(ids, 1)

    def at_temperature(self, temperature: float) -> Self:
        """The same autoregressive model at another temperature."""
        return self._of(replace(self._batch, temperature=temperature))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(ResponseDistribution, _instance)
        new.__dict__.update(self.__dict__)
        rows = self._batch.rows.expand(torch.Size(batch_shape))
        new._batch, new._batch_shape = replace(self._batch, rows=rows), rows.shape
        return new

    def in_micro_batches(self, size: int | None) -> Self:
        """The same distribution, read with gradient for at most `size` responses at a time.

        Values and gradients are those of the whole batch, up to rounding. The backward pass reads
        each micro-batch again, and holds the activations of one micro-batch at a time.
        """
        return self._of(replace(self._batch, micro_batch=size))

    def alongside(self, other: "ResponseDistribution") -> Self:
        """This distribution for the prompts of another, such as those of a chunk."""
        return self._of(self._batch.part(other.prompts, other._batch.rows))

    def _of(self, batch: Batch) -> Self:
        """The distribution of another batch of responses."""
        new = copy.copy(self)
        new._batch, new._batch_shape = batch, batch.rows.shape
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw responses token by token. Returns `sample_shape + batch_shape + [T]`, token ids."""
        return self._draw(sample_shape)[0]

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw responses, and return `log_prob` of each without another pass and without gradient.

        In half precision a decode rounds differently from a pass over the whole response, by more
        than guide and prior may differ: there the responses are scored by another pass.

        Returns:
            Token ids `sample_shape + batch_shape + [T]`; nats, `sample_shape + batch_shape`,
            float64.
        """
        response, log_prob = self._draw(sample_shape)
        if self.is_half:
            with torch.no_grad():
                log_prob = self.log_prob(response)
        return response, log_prob

    @one_thread
    @torch.no_grad()
    def _draw(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Responses and their log-probabilities, as rounded by the decode."""
        if not isinstance(sample_shape, Sequence) or isinstance(sample_shape, str):
            raise TypeError(
                f"sample_shape is {quoted(sample_shape)}, expected a tuple such as (8,)"
            )
        for size in sample_shape:
            whole_number("a size of sample_shape", size)
        if torch.jit.is_tracing():
            raise NotImplementedError(
                "a response is drawn token by token until it ends, and `torch.jit` would repeat "
                "the first draw's loop: use `Trace_ELBO` or `LeaveOneOut_ELBO`, without `Jit`"
            )
        check_contract(self._batch)
        rows = self._batch.rows
        rows = rows.expand(*sample_shape, *rows.shape)
        decode = draw(replace(self._batch, rows=rows.flatten()))
        log_prob = decode.log_prob.sum(-1)  # [B, T] -> [B]
        response = decode.response.view(*rows.shape, -1)
        remember(response, self.space, decode.lengths)
        return response, log_prob.view(rows.shape)

    @one_thread
    @torch.no_grad()
    def sample_suffix(self, value: Tensor, start: Tensor) -> Tensor:
        """Draw the suffix of responses `[..., N, T]` from `start` `[..., N]`, given the prefix."""
        value, batch, shape = self._flat(value)
        start = instance("start", start, Tensor).expand(shape[:-1]).reshape(-1)
        return draw(batch, Prefix(value, start)).response.view(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(response), nats, `[..., N]` for `[..., N, T]`, float64.

        -inf if a row is no response. Log likelihoods are float64 too: Pyro multiplies the two.
        """
        if self._validate_args:
            self._validate_sample(instance("value", value, Tensor))
        return through(self._log_prob, value)

    def _validate_sample(self, value: Tensor) -> None:
        """Refuse other shapes, and other ids than those of the vocabulary, which draws have."""
        full = self.batch_shape + self.event_shape
        if value.shape[-len(full) :] != full or known_lengths(value, self.space) is None:
            super()._validate_sample(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        # [..., N, T] -> [..., N]
        log_prob = self.log_prob_per_token(value).sum(-1, dtype=torch.float64)
        return log_prob.masked_fill(~self.space.contains(value), -torch.inf)

    def log_prob_per_token(self, value: Tensor) -> Tensor:
        """log p(x_t | prompt, x_<t), nats: `[..., N, T]`, 0 at padding; `log_prob` is the sum."""
        (per_token,) = self._in_parts(lambda b, value: b.log_prob_per_token(value)[:1], value)
        return per_token

    def log_prob_and_hidden(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob_per_token`, and the hidden states below the logits, `[..., N, T, H]`.

        The state at t has read the prompt and x_<t. Both are 0 at padding. A `TypeError` if the
        decoder does not reveal its states.
        """
        per_token, hidden = self._in_parts(Batch.log_prob_and_hidden, value)
        return per_token, hidden

    def next_token_logits(self, value: Tensor) -> Tensor:
        """Logits of p(. | prompt, x_<t), temperature applied, `[..., N, T, V]`; all 0 at padding.

        For sums over the vocabulary: inside a function of `in_chunks`, for the logits of a chunk
        alone. `log_prob` never holds this much.
        """
        (logits,) = self._in_parts(Batch.next_token_logits, value)
        return logits

    def in_chunks(
        self, function: Callable[[Self, Tensor], tuple[Tensor, ...]], value: Tensor
    ) -> tuple[Tensor, ...]:
        """A function of responses `[..., N, T]`, computed for a chunk of the batch at a time.

        The function takes this distribution with batch shape `[B']`, and B' responses `[B', T]`. It
        returns tensors `[B', ...]`, with gradient. The results have the shapes `[..., N, ...]`. The
        backward pass computes the function of each micro-batch again.
        """
        return self._in_parts(lambda batch, value: function(self._of(batch), value), value)

    def _in_parts(self, function: Function, value: Tensor) -> tuple[Tensor, ...]:
        """`in_chunks` for a function of a batch and its responses."""
        value, batch, shape = self._flat(value)
        results = _in_parts(function, batch, value)
        return tuple(tensor.view(*shape[:-1], *tensor.shape[1:]) for tensor in results)

    def _flat(self, value: Tensor) -> tuple[Tensor, Batch, torch.Size]:
        """B responses `[B, T]`, their batch, and the full shape."""
        own_shape = instance("value", value, Tensor).shape[:-1]
        batch_shape = torch.broadcast_shapes(own_shape, self.batch_shape)
        shape = batch_shape + self.event_shape
        batch = replace(self._batch, rows=self._batch.rows.expand(batch_shape).reshape(-1))
        return value.expand(shape).reshape(-1, shape[-1]), batch, shape

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every response once, `[S] + batch_shape + [T]`; ones for the batch without `expand`."""
        support = self.space.enumerate()
        support = support.view(len(support), *(1,) * len(self.batch_shape), *self.event_shape)
        return support.expand(-1, *self.batch_shape, -1) if expand else support


def _in_parts(function: Function, batch: Batch, value: Tensor) -> tuple[Tensor, ...]:
    """A function of B responses: by ranks, then by micro-batches or by chunks."""
    if batch.division is not None:
        return batch.by_ranks(lambda part, own: _in_parts(function, part, own(value)))
    if batch.micro_batch is not None and torch.is_grad_enabled():
        return by_micro_batches(function, batch, value)
    return by_chunks(function, batch, value)
