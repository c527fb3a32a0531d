"""Check that a network gives a padded prompt, read with a cache, the logits of the plain text.

Windows of attention are narrow in the check, so that prompt and response reach beyond them.
"""

import torch
import transformers
from torch import Tensor

from model.networks.positions import longest_context
from model.networks.windows import narrow_windows
from model.prior.decoder import Decoder
from model.prior.fixed_state import FixedState
from model.prior.prompts import Prompts

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Largest difference that is rounding, in standard deviations of the logits; else 1. Some networks,
such as GPT-Neo, compute attention in float32 whatever their type."""
LENGTHS = (9, 3, 1)
"""Number of tokens of each prompt that the check reads."""
STEPS = 3
"""Largest number of tokens of each response that the check reads."""
WINDOW = 4
"""Largest window of attention in the check."""


class CachedReadingError(ValueError):
    """A network gives other logits to a padded prompt read with a cache than to the sequence."""


@torch.no_grad()
def check_cached_reading(
    decoder: Decoder,
    network: "transformers.PreTrainedModel",
    words: list[int],
    max_new_tokens: int,
    *,
    fixed: bool = False,
) -> bool:
    """Compare the passes of a decoder with plain passes of its network, on ordinary tokens `words`.

    With `fixed`, the decoder reads a `FixedState`. A `CachedReadingError` if the log-probabilities
    differ by more than rounding.

    Returns:
        True if the network gives numbers to padded prompts, False for NaN.
    """
    context = longest_context(network)
    room = max(LENGTHS) if context is None else context - max_new_tokens
    if room < 1:
        return True  # no prompt is ever read
    lengths, num_steps = [min(length, room) for length in LENGTHS], min(STEPS, max_new_tokens - 1)
    size = max(LENGTHS) + STEPS
    spread_ids = [
        words[(7 * i + 1) * len(words) // 97 % len(words)] for i in range(size * len(LENGTHS))
    ]
    prompts = [spread_ids[size * n :][:length] for n, length in enumerate(lengths)]
    responses = [spread_ids[size * n + length :][:num_steps] for n, length in enumerate(lengths)]
    device = network.device
    try:
        with narrow_windows(network, WINDOW):
            plain = []
            for prompt, rest in zip(prompts, responses, strict=True):
                output = network(torch.tensor([prompt + rest], device=device), use_cache=False)
                plain.append(output.logits[0, len(prompt) - 1 :])
            expected = torch.stack(plain)
            encoded = Prompts.from_ids(prompts, [""] * len(prompts), device)
            cached = _cached_logits(decoder, encoded, torch.tensor(responses, device=device), fixed)
    except Exception as error:
        raise CachedReadingError(
            f"{type(network).__name__} in {network.dtype} cannot read a padded prompt and go on "
            f"with a cache: {type(error).__name__}: {error}"
        ) from error
    spread = expected.double().std(-1).mean().item()
    difference = largest_difference(cached, expected)
    if difference > TOLERANCE.get(network.dtype, 1.0) * (spread + 1e-6):
        raise CachedReadingError(
            f"{type(network).__name__} gives a token other log-probabilities, by up to "
            f"{difference:.2g} nats, when a padded prompt is read with a cache: expected a causal "
            "network whose positions follow `position_ids` or the mask, whose state is a key-value "
            "cache, and whose windows of attention are the same with a cache"
        )
    return not bool(cached.isnan().any())


def largest_difference(logits: Tensor, expected: Tensor) -> float:
    """Largest difference of the log-probabilities of two tensors of logits, `[..., V]`, nats.

    NaN is left out: eager attention in float64 has it at padding alone.
    """
    log_ratio = logits.double().log_softmax(-1) - expected.double().log_softmax(-1)
    return log_ratio.abs().nan_to_num(nan=0.0).max().item()


def _cached_logits(decoder: Decoder, prompts: Prompts, response: Tensor, fixed: bool) -> Tensor:
    """Logits after each prompt and each token, `[N, L + 1, V]`; the first is read alone."""
    first, state = decoder.start(prompts)
    logits = [first[:, None]]
    parts = [response[:, :1], response[:, 1:]]
    if fixed:
        before, state = state, FixedState(state, len(prompts), state.mask.shape[1])
        state.load(before, torch.arange(len(prompts), device=response.device))
        parts = list(response.split(1, 1))
    for ids in parts:
        if ids.shape[1]:
            after, state = decoder.extend(state, ids)
            logits.append(after.clone())
    return torch.cat(logits, 1)
