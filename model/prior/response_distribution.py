"""The distribution of a response given its prompt, for any autoregressive model.

    p(x | prompt) = prod_t p(x_t | prompt, x_<t),   t = 1 .. min(T, first end)

A truncated response has the probability of its prefix, and a row that is no response has
probability 0 (see `ResponseSpace`), so that the probabilities of all rows sum to 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from model.common.provenance import through
from model.common.thread_lock import one_thread
from model.prior.decoder import Decoder
from model.prior.logits import sample_token, scaled, token_log_prob
from model.prior.prompts import Prompts
from model.prior.response_space import ResponseSpace


class _Pass(NamedTuple):
    """Logits of one parallel pass, with the states behind the logits.

    `first` `[N, V]` is of the first token of each prompt; `rest` `[B, L - 1, V]` is of the later
    tokens of each response, None if L is 1.
    """

    first: Tensor
    first_state: Any
    rest: Tensor | None = None
    rest_state: Any = None


class ResponseDistribution(TorchDistribution):
    """p(response | prompts): batch shape `[N]` or wider, event shape `[T]`, values are token ids.

    `sample` decodes with a cache and without gradient; `log_prob` is one parallel pass over the
    response, with gradient. Both read each prompt once for all its particles.

        distribution = prior(prompts)
        response = distribution.sample((8,))  # [8, N, T]
        distribution.log_prob(response)  # [8, N], nats

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
        validate_args: bool | None = None,
    ) -> None:
        space.check(prompts)
        self.decoder, self.prompts = decoder, prompts
        self.space, self.temperature = space, temperature
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

    @one_thread
    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw responses token by token. Returns `sample_shape + batch_shape + [T]`, token ids."""
        if torch.jit.is_tracing():
            raise NotImplementedError(
                "a response is drawn token by token until it ends, and `torch.jit` would repeat "
                "the first draw's loop: use `Trace_ELBO` or `LeaveOneOut_ELBO`, without `Jit`"
            )
        rows = self._rows.expand(*sample_shape, *self._rows.shape)
        return self._decode(rows.flatten()).view(*rows.shape, -1)

    @one_thread
    @torch.no_grad()
    def sample_suffix(self, value: Tensor, start: Tensor) -> Tensor:
        """Draw the suffix of responses `[..., N, T]` from `start` `[..., N]`, given the prefix."""
        value, _, rows, shape = self._flat(value)
        return self._decode(rows, value, start.expand(shape[:-1]).reshape(-1)).view(shape)

    def _decode(
        self, rows: Tensor, value: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        """Responses `[B, T]` to the prompts at `rows` `[B]`, with the prefix `value[:, :start]`."""
        logits, state = self.decoder.start(self.prompts)
        logits, state = logits[rows], state.select(rows)
        num_tokens = self.event_shape[0]
        response = rows.new_full((len(rows), num_tokens), self.space.pad_id)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for t in range(num_tokens):
            token = sample_token(logits, self.temperature)
            if value is not None and start is not None:
                token = torch.where(t < start, value[:, t], token)
            response[:, t] = token.masked_fill(ended, self.space.pad_id)
            ended |= torch.isin(token, self.space.end_ids)
            if t + 1 == num_tokens or bool(ended.all()):
                break
            logits, state = self.decoder.extend(state, response[:, t : t + 1])
            logits = logits[:, -1]
        return response

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
        value, is_token, rows, shape = self._flat(value)
        one_pass = self._read(value, is_token, rows)
        return self._log_prob_of(value, is_token, rows, one_pass).view(shape)

    def log_prob_and_hidden(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob_per_token`, and the hidden states below the logits, `[..., N, T, H]`.

        The state at t has read the prompt and x_<t. Both are 0 at padding. A `TypeError` if the
        decoder does not reveal its states.
        """
        value, is_token, rows, shape = self._flat(value)
        one_pass = self._read(value, is_token, rows)
        hidden = [_hidden(one_pass.first_state)[rows, -1:]]
        if one_pass.rest_state is not None:
            hidden.append(_hidden(one_pass.rest_state))
        per_token = self._log_prob_of(value, is_token, rows, one_pass).view(shape)
        return per_token, _fill(torch.cat(hidden, 1), is_token).view(*shape, -1)

    def next_token_logits(self, value: Tensor) -> Tensor:
        """Logits of p(. | prompt, x_<t), temperature applied, `[..., N, T, V]`; all 0 at padding.

        For objectives that sum over the vocabulary; `log_prob` never holds this much.
        """
        value, is_token, rows, shape = self._flat(value)
        first, _, rest, _ = self._read(value, is_token, rows)
        logits = first[rows, None] if rest is None else torch.cat([first[rows, None], rest], 1)
        return _fill(scaled(logits, self.temperature), is_token).view(*shape, -1)

    def _flat(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
        """B responses and their mask, `[B, T]`, the prompt of each, `[B]`, and the full shape."""
        batch_shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        shape = batch_shape + self.event_shape
        rows = self._rows.expand(batch_shape).reshape(-1)
        value = value.expand(shape).reshape(-1, shape[-1])
        return value, self.space.is_token(value), rows, shape

    def _read(self, value: Tensor, is_token: Tensor, rows: Tensor) -> _Pass:
        """One parallel pass over the responses, up to the last position of any token."""
        longest = int(is_token.any(0).sum())
        first, state = self.decoder.start(self.prompts)
        if longest == 1:
            return _Pass(first, state)
        later = self.decoder.extend(state.select(rows), value[:, : longest - 1])
        return _Pass(first, state, *later)

    def _log_prob_of(
        self, value: Tensor, is_token: Tensor, rows: Tensor, one_pass: _Pass
    ) -> Tensor:
        """log p of every token of B responses, `[B, T]`, nats."""
        # [N, V], before the particles of a prompt share it
        log_first = scaled(one_pass.first, self.temperature).log_softmax(-1)
        per_token = log_first[rows, value[:, 0]][:, None]
        if one_pass.rest is not None:
            ids = value[:, 1 : 1 + one_pass.rest.shape[1]]
            later = token_log_prob(one_pass.rest, ids, self.temperature)
            per_token = torch.cat([per_token, later], 1)
        return _fill(per_token, is_token)

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
