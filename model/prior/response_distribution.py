"""The distribution of a response given its prompt, for any autoregressive model.

    p(x | prompt) = prod_t p(x_t | prompt, x_<t),   t = 1 .. min(T, first end)

A truncated response has the probability of its prefix, and a row that is no response has
probability 0 (see `ResponseSpace`), so that the probabilities of all rows sum to 1.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from model.common.provenance import through
from model.common.sharded_tensors import in_step, is_sharded
from model.common.thread_lock import one_thread
from model.networks.shards import gathered_once
from model.prior.chunks import chunks, groups
from model.prior.decode import Decode, Prefix
from model.prior.decoder import Decoder, SplitsHead
from model.prior.division import Block, division
from model.prior.logits import CHUNK, of_states, scaled, token_log_prob
from model.prior.prompts import Prompts
from model.prior.recomputation import Grads, add_gradients, cut, deferred, leaves_of
from model.prior.response_space import ResponseSpace

Function = Callable[[Any, Tensor], tuple[Tensor, ...]]
"""A function of a distribution of B responses and B responses; see `in_chunks`."""
OfOwn = Callable[[Tensor], Tensor]
"""A function from a tensor of all responses, `[B, ...]`, to those of a rank, `[B', ...]`."""
LIGHT = 4
"""Number of responses without gradient that are read in the place of one response with gradient.
Their keys and values take less memory than the activations of the one."""
MOST_LOGITS = 1 << 26
"""Number of logits of all responses that are read together without gradient, by a decoder whose
logits are not computed from hidden states chunk by chunk."""


class _Start(NamedTuple):
    """One pass over N prompts: logits `[N, V]` of the first token, and the state after the pass."""

    logits: Tensor
    state: Any


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

    Attributes:
        micro_batch: see `in_micro_batches`; None for passes over the whole batch.
        division: division of responses over ranks; None for one rank.
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
        validate_args: bool | None = None,
    ) -> None:
        space.check(prompts)
        self.decoder, self.prompts = decoder, prompts
        self.space, self.temperature = space, temperature
        self.micro_batch: int | None = None
        self.division = division()
        self._start: _Start | None = None  # the pass over the prompts, once it is done
        # the prompt of each place of the batch
        self._rows = torch.arange(len(prompts), device=prompts.ids.device)
        event_shape = torch.Size([space.max_new_tokens])
        super().__init__(self._rows.shape, event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        ids = constraints.integer_interval(0, self.space.vocab_size - 1)
        return constraints.independent(ids, 1)

    def at_temperature(self, temperature: float) -> Self:
        """The same autoregressive model at another temperature."""
        new = self.expand(self.batch_shape)
        new.temperature = temperature
        return new

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(ResponseDistribution, _instance)
        new.__dict__.update(self.__dict__)
        new._rows = self._rows.expand(torch.Size(batch_shape))
        new._batch_shape = new._rows.shape
        return new

    def in_micro_batches(self, size: int | None) -> Self:
        """The same distribution, read with gradient for at most `size` responses at a time.

        Values and gradients are those of the whole batch, up to rounding. The backward pass reads
        each micro-batch again, and holds the activations of one micro-batch at a time.
        """
        new = copy.copy(self)
        new.micro_batch = size
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
        parameters: Iterable[Tensor] = getattr(self.decoder, "parameters", tuple)()
        if any(parameter.dtype.itemsize < torch.float32.itemsize for parameter in parameters):
            with torch.no_grad():
                log_prob = self.log_prob(response).double()
        return response, log_prob

    @one_thread
    @torch.no_grad()
    def _draw(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Responses and their log-probabilities, as rounded by the decode."""
        if torch.jit.is_tracing():
            raise NotImplementedError(
                "a response is drawn token by token until it ends, and `torch.jit` would repeat "
                "the first draw's loop: use `Trace_ELBO` or `LeaveOneOut_ELBO`, without `Jit`"
            )
        rows = self._rows.expand(*sample_shape, *self._rows.shape)
        decode = self._decode(rows.flatten())
        log_prob = decode.log_prob.sum(-1)  # [B, T] -> [B]
        return decode.response.view(*rows.shape, -1), log_prob.view(rows.shape)

    @one_thread
    @torch.no_grad()
    def sample_suffix(self, value: Tensor, start: Tensor) -> Tensor:
        """Draw the suffix of responses `[..., N, T]` from `start` `[..., N]`, given the prefix."""
        value, rows, shape = self._flat(value)
        start = start.expand(shape[:-1]).reshape(-1)
        return self._decode(rows, Prefix(value, start)).response.view(shape)

    def _decode(self, rows: Tensor, prefix: Prefix | None = None) -> Decode:
        """The finished decode of responses to the prompts at `rows` `[B]`."""
        decode = Decode(self.decoder, self.space, self.temperature, rows, prefix)
        every = torch.arange(len(rows), device=rows.device)
        if self.division is None:
            self._run(decode, rows, every)
        else:

            def run_own(part: Self, own: OfOwn) -> tuple[Tensor, ...]:
                part._run(decode, part._rows, own(every))
                return own(decode.response), own(decode.log_prob)

            decode.response, decode.log_prob = self._by_ranks(run_own, rows)
        decode.finish()
        return decode

    def _run(self, decode: Decode, rows: Tensor, places: Tensor) -> None:
        """Draw the responses at `places` `[B']` of a decode, to the prompts at `rows` `[B']`."""
        decoding = getattr(self.decoder, "decoding", nullcontext)
        with gathered_once(self.decoder):
            for chunk, part in self._parts(rows, [self.event_shape[0]] * len(rows)):
                first, state = part._read_prompts()
                active = places if chunk is None else places[chunk]
                if getattr(self.decoder, "compile_decode", False):
                    decode.run_compiled(first, state, part._rows, active)
                else:
                    with decoding():
                        decode.run(first[part._rows], state.select(part._rows), active)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(response), nats, `[..., N]` for `[..., N, T]`; -inf if a row is no response."""
        if self._validate_args:
            self._validate_sample(value)
        return through(self._log_prob, value)

    def _log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.log_prob_per_token(value).sum(-1)  # [..., N, T] -> [..., N]
        return log_prob.masked_fill(~self.space.contains(value), -torch.inf)

    def log_prob_per_token(self, value: Tensor) -> Tensor:
        """log p(x_t | prompt, x_<t), nats: `[..., N, T]`, 0 at padding; `log_prob` is the sum."""
        (per_token,) = self.in_chunks(lambda part, value: part._scored(value)[:1], value)
        return per_token

    def log_prob_and_hidden(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob_per_token`, and the hidden states below the logits, `[..., N, T, H]`.

        The state at t has read the prompt and x_<t. Both are 0 at padding. A `TypeError` if the
        decoder does not reveal its states.
        """

        def both(part: Self, value: Tensor) -> tuple[Tensor, Tensor]:
            per_token, state = part._scored(value)
            hidden = [_hidden(part._read_prompts().state)[part._rows, -1:]]
            if state is not None:
                hidden.append(_hidden(state))
            return per_token, _fill(torch.cat(hidden, 1), self.space.is_token(value))

        per_token, hidden = self.in_chunks(both, value)
        return per_token, hidden

    def next_token_logits(self, value: Tensor) -> Tensor:
        """Logits of p(. | prompt, x_<t), temperature applied, `[..., N, T, V]`; all 0 at padding.

        For sums over the vocabulary: inside a function of `in_chunks`, for the logits of a chunk
        alone. `log_prob` never holds this much.
        """

        def logits_of(part: Self, value: Tensor) -> tuple[Tensor]:
            is_token = self.space.is_token(value)
            first, state = part._read_prompts()
            logits = first[part._rows, None]
            longest = self._highest(int(is_token.any(0).sum()))
            if longest > 1:
                state = state.select(part._rows)
                later, _ = self.decoder.extend(state, value[:, : longest - 1])
                logits = torch.cat([logits, later], 1)
            return (_fill(scaled(logits, self.temperature), is_token),)

        (logits,) = self.in_chunks(logits_of, value)
        return logits

    def in_chunks(self, function: Function, value: Tensor) -> tuple[Tensor, ...]:
        """A function of responses `[..., N, T]`, computed for a chunk of the batch at a time.

        The function takes this distribution with batch shape `[B']`, and B' responses `[B', T]`. It
        returns tensors `[B', ...]`, with gradient. The results have the shapes `[..., N, ...]`. The
        backward pass computes the function of each micro-batch again.
        """
        value, rows, shape = self._flat(value)
        if self.division is not None:
            results = self._by_ranks(lambda part, own: part.in_chunks(function, own(value)), rows)
        elif self.micro_batch is not None and torch.is_grad_enabled():
            results = self._in_micro_batches(function, value, rows)
        else:
            results = self._in_parts(function, value, rows)
        return tuple(tensor.view(*shape[:-1], *tensor.shape[1:]) for tensor in results)

    def _by_ranks(
        self, function: Callable[[Self, OfOwn], tuple[Tensor, ...]], rows: Tensor
    ) -> tuple[Tensor, ...]:
        """A function of B responses to the prompts at `rows`, computed by each rank for its own.

        Args:
            function: takes the distribution of the B' responses of a rank, and a function from
                tensors `[B, ...]` to `[B', ...]`; returns tensors `[B', ...]`.
            rows: `[B]`, the N prompts in their order, K times.

        Returns:
            The tensors `[B, ...]` on every rank.
        """
        assert self.division is not None
        num_prompts = len(self.prompts)

        def of_block(block: Block) -> tuple[Tensor, ...]:
            def own(tensor: Tensor) -> Tensor:
                grid = tensor.unflatten(0, (-1, num_prompts))
                return grid[block.particles, block.prompts].flatten(0, 1)

            whole = block.prompts == slice(None)
            prompts = self.prompts if whole else self.prompts[block.prompts]
            own_rows = own(rows) - own(rows).min()
            part = self._for(prompts, own_rows, self._start if whole else None)
            part.micro_batch = self.micro_batch
            results = function(part, own)
            return tuple(tensor.unflatten(0, (-1, len(prompts))) for tensor in results)

        sizes = len(rows) // num_prompts, num_prompts
        grid = self.division.compute(of_block, *sizes, even=self._in_step)
        return tuple(tensor.flatten(0, 1) for tensor in grid)

    def _in_parts(self, function: Function, value: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """`in_chunks` for B responses, with the whole graph."""
        all_places, results = [], []
        for places, part in self._parts(rows, self._lengths(value)):
            if places is None:
                return function(part, value)
            all_places.append(places)
            results.append(function(part, value[places]))
        order = torch.cat(all_places).argsort()
        return tuple(torch.cat(parts)[order] for parts in zip(*results, strict=True))

    def _in_micro_batches(
        self, function: Function, value: Tensor, rows: Tensor
    ) -> tuple[Tensor, ...]:
        """`in_chunks` for B responses, with the graph of a micro-batch at a time."""
        with torch.no_grad():
            values = self._in_parts(function, value, rows)
        leaves = self._leaves(function, value, rows)
        if not leaves:
            return values
        lengths = self._lengths(value)
        # FSDP reduces gradients that a backward pass leaves at the parameters
        in_place = any(is_sharded(leaf) for leaf in leaves)

        def gradient(grads: Grads) -> Grads:
            total: list[Tensor | None] = [None] * len(leaves)
            for prompts, group, own_rows in groups(self.prompts, rows, self.micro_batch):
                pairs: list[tuple[Tensor, Tensor]] = []
                start = cut(_Start(*self.decoder.start(prompts)), pairs)
                wide = [*leaves, *(leaf for _, leaf in pairs)]
                sums = [*total, *(None for _ in pairs)]
                index = torch.arange(len(rows), device=rows.device) if group is None else group
                own_lengths = [lengths[place] for place in index.tolist()]
                for chunk in chunks(own_lengths, self.micro_batch):
                    part = self._for(prompts, own_rows[chunk], start)
                    places = index[chunk]
                    parts = [None if grad is None else grad[places] for grad in grads]
                    outputs = function(part, value[places])
                    add_gradients(sums, wide, outputs, parts, in_place=in_place)
                total, grads_of_start = sums[: len(leaves)], sums[len(leaves) :]
                if in_place:
                    grads_of_start = [leaf.grad for _, leaf in pairs]
                roots = [old for old, _ in pairs]
                add_gradients(total, leaves, roots, grads_of_start, in_place=in_place)
            return total

        return deferred(values, leaves, gradient)

    def _leaves(self, function: Function, value: Tensor, rows: Tensor) -> list[Tensor]:
        """Parameters behind a function of responses: those of the decoder that train, and others.

        Found by the function of one response of two tokens.
        """
        own: Iterable[Tensor] = getattr(self.decoder, "parameters", tuple)()
        lengths = self._lengths(value)
        place = max(range(len(lengths)), key=lengths.__getitem__)
        short = value[place : place + 1].clone()
        if lengths[place] > 1:
            short[:, 1], short[:, 2:] = self.space.end_ids[0], self.space.pad_id
        row = rows[place : place + 1]
        behind = leaves_of(function(self._for(self.prompts[row.tolist()], row.new_zeros(1)), short))
        leaves = {id(p): p for p in [*own, *behind] if p.requires_grad}
        return list(leaves.values())

    def _lengths(self, value: Tensor) -> list[int]:
        """Number of tokens of each of B responses, as far as chunks may depend on the responses."""
        if self._in_step:
            return [value.shape[1]] * len(value)
        return self.space.is_token(value).sum(1).tolist()

    @property
    def _in_step(self) -> bool:
        """True if all ranks run the same passes, because they share the decoder's weights."""
        return getattr(self.decoder, "in_step", False)

    def _highest(self, number: int) -> int:
        """A number of tokens, the largest over ranks that run the same passes."""
        if not self._in_step:
            return number
        return int(in_step(self.decoder, torch.tensor(number, device=self._rows.device)))

    def alongside(self, other: "ResponseDistribution") -> Self:
        """This distribution for the prompts of another, such as those of a chunk."""
        return self._for(other.prompts, other._rows)

    def _for(self, prompts: Prompts, rows: Tensor, start: _Start | None = None) -> Self:
        """The distribution for the prompts at `rows`, any shape, which `start` has read."""
        new = self.in_micro_batches(None)
        new.division = None
        new.prompts, new._rows, new._batch_shape = prompts, rows, rows.shape
        new._start = start
        return new

    def _flat(self, value: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """B responses `[B, T]`, the prompt of each, `[B]`, and the full shape."""
        batch_shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        shape = batch_shape + self.event_shape
        rows = self._rows.expand(batch_shape).reshape(-1)
        return value.expand(shape).reshape(-1, shape[-1]), rows, shape

    def _parts(self, rows: Tensor, lengths: list[int]) -> Iterator[tuple[Tensor | None, Self]]:
        """Chunks of B responses of these lengths to the prompts at `rows` `[B]`.

        Yields:
            Places of a chunk in the batch, `[B']`, None for the whole batch in its order; and the
            distribution for the chunk, which has read its prompts. With gradient, the chunks have
            any size, and differ in length.
        """
        room = getattr(self.decoder, "room", None)
        num_columns = self.prompts.ids.shape[1] + self.space.max_new_tokens
        limits = [] if room is None else [room // num_columns]
        if not getattr(self.decoder, "splits_head", False):
            limits.append(MOST_LOGITS // (self.space.max_new_tokens * self.space.vocab_size))
        if self.micro_batch is not None:
            limits.append(LIGHT * self.micro_batch)
        size = max(1, min(limits, default=len(rows)))
        for prompts, group, own_rows in groups(self.prompts, rows, None if self._start else size):
            start = self._start or _Start(*self.decoder.start(prompts))
            own_lengths = lengths if group is None else [lengths[i] for i in group.tolist()]
            has_gradient = torch.is_grad_enabled() and start.logits.requires_grad
            parts = chunks(own_lengths, None if has_gradient else size)
            if group is None and len(parts) == 1:
                yield None, self._for(prompts, own_rows, start)
                return
            for part in parts:
                index = torch.tensor(part, device=rows.device)
                places = index if group is None else group[index]
                yield places, self._for(prompts, own_rows[index], start)

    def _read_prompts(self) -> _Start:
        """The pass over the prompts."""
        return self._start or _Start(*self.decoder.start(self.prompts))

    def _scored(self, value: Tensor) -> tuple[Tensor, Any]:
        """`log_prob_per_token` of B responses by one parallel pass, and the state after it.

        The pass ends at the last position of any token. The state is None if that is the first.
        """
        is_token = self.space.is_token(value)
        longest = self._highest(int(is_token.any(0).sum()))
        first, state = self._read_prompts()
        # [N, V], before the particles of a prompt share it
        log_first = scaled(first, self.temperature).log_softmax(-1)
        per_token = log_first[self._rows, value[:, 0]][:, None]
        if longest <= 1:
            return _fill(per_token, is_token), None
        read, ids = value[:, : longest - 1], value[:, 1:longest]
        decoder, state, size = self.decoder, state.select(self._rows), self.space.vocab_size
        if ids.numel() * size > CHUNK and isinstance(decoder, SplitsHead) and decoder.splits_head:
            state = decoder.extend_states(state, read)
            later = of_states(self._log_prob_of_state, state.hidden, ids, size)
        else:
            logits, state = decoder.extend(state, read)
            later = token_log_prob(logits, ids, self.temperature)
        return _fill(torch.cat([per_token, later], 1), is_token), state

    def _log_prob_of_state(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """log p of the tokens `ids` `[C]` after hidden states `[C, H]`, nats, `[C]`."""
        logits = cast(SplitsHead, self.decoder).logits_of(hidden)
        return token_log_prob(logits, ids, self.temperature)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every response once, `[S] + batch_shape + [T]`; ones for the batch without `expand`."""
        support = self.space.enumerate()
        support = support.view(len(support), *(1,) * len(self.batch_shape), *self.event_shape)
        return support.expand(-1, *self.batch_shape, -1) if expand else support


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
