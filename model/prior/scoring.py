"""The parallel pass of a decoder over a batch of responses, with gradient."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.prior.batch import Batch
from model.prior.logits import CHUNK, log_softmax, of_states, scaled, token_log_prob


def log_prob_per_token(batch: Batch, value: Tensor) -> tuple[Tensor, Any]:
    """log p(x_t | prompt, x_<t) of B responses, nats, and the state of the decoder after the pass.

    The pass ends at the last position of any token.

    Returns:
        `[B, T]`, 0 at padding; the state, None if all responses have one token, or if the prompts
        have not been read.
    """
    is_token = batch.space.is_token(value)
    longest = batch.longest(is_token)
    decoder, size = batch.decoder, batch.space.vocab_size

    def log_prob_of_state(hidden: Tensor, ids: Tensor) -> Tensor:
        """log p of the tokens `ids` `[C]` after hidden states `[C, H]`, nats, `[C]`."""
        return token_log_prob(decoder.logits_of(hidden), ids, batch.temperature)

    if batch.reads_whole and longest > 1:
        ids = value[:, :longest]
        hidden = decoder.states_before(batch.prompts, batch.rows, ids)
        return _fill(of_states(log_prob_of_state, hidden, ids, size), is_token), None
    first, state = batch.read_prompts()
    # [N, V], before the particles of a prompt share it
    log_first = log_softmax(first, batch.temperature)
    per_token = log_first[batch.rows, value[:, 0]][:, None]
    if longest <= 1:
        return _fill(per_token, is_token), None
    read, ids = value[:, : longest - 1], value[:, 1:longest]
    state = state.select(batch.rows)
    if ids.numel() * size > CHUNK and decoder.splits_head:
        state = decoder.extend_states(state, read)
        later = of_states(log_prob_of_state, state.hidden, ids, size)
    else:
        logits, state = decoder.extend(state, read)
        later = token_log_prob(logits, ids, batch.temperature)
    return _fill(torch.cat([per_token, later], 1), is_token), state


def log_prob_and_hidden(batch: Batch, value: Tensor) -> tuple[Tensor, Tensor]:
    """`log_prob_per_token`, and the hidden states below the logits, `[B, T, H]`; 0 at padding."""
    batch = replace(batch, start=batch.read_prompts())
    per_token, state = log_prob_per_token(batch, value)
    hidden = [_hidden(batch.read_prompts().state)[batch.rows, -1:]]
    if state is not None:
        hidden.append(_hidden(state))
    return per_token, _fill(torch.cat(hidden, 1), batch.space.is_token(value))


def next_token_logits(batch: Batch, value: Tensor) -> tuple[Tensor]:
    """Logits of the next token of B responses, temperature applied, `[B, T, V]`; 0 at padding."""
    is_token = batch.space.is_token(value)
    first, state = batch.read_prompts()
    logits = first[batch.rows, None]
    longest = batch.longest(is_token)
    if longest > 1:
        state = state.select(batch.rows)
        later, _ = batch.decoder.extend(state, value[:, : longest - 1])
        logits = torch.cat([logits, later], 1)
    return (_fill(scaled(logits, batch.temperature), is_token),)


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
