"""Checks that tokens are drawn as they are scored: read with a cache, or one by one, as together.

A network gives a padded prompt, read with a cache, the logits of the plain text. Windows of
attention are narrow in the check, so that prompt and response reach beyond them. A decoder written
by hand gives tokens that are read one by one the logits of tokens that are read together. Where the
two differ, every objective descends the loss of another distribution than the one it draws from.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor

from model.networks.positions import longest_context
from model.prior.batch import Batch
from model.prior.cached_decoder import CachedDecoder
from model.prior.decoder import Decoder
from model.prior.fixed_state import FixedState
from model.prior.prompts import Prompts

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Largest difference that is rounding, in standard deviations of the logits; else 1. Some networks,
such as GPT-Neo, compute attention in float32 whatever their type."""
LENGTHS = (9, 3, 1)  # number of tokens of each prompt that the check reads
STEPS = 3  # largest number of tokens of each response that the check reads
WINDOW = 4  # largest window of attention in the check
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Names of windows in configurations and layers of `transformers`."""
_NUM_DRAWS: Counter[type[Decoder]] = Counter()
"""Number of draws by class of decoder; training may move logits apart that were equal before."""


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
    """Logits after each prompt and each token, `[N, L + 1, V]`; the first is read alone.

    The state is selected in the reverse order, as a draw selects it.
    """
    first, state = decoder.start(prompts)
    logits, rows = [first[:, None]], torch.arange(len(prompts), device=response.device).flip(0)
    state, response = state.select(rows), response[rows]
    parts = [response[:, :1], response[:, 1:]]
    if fixed:
        before, state = state, FixedState(state, len(prompts), state.mask.shape[1])
        state.load(before, torch.arange(len(prompts), device=response.device))
        parts = list(response.split(1, 1))
    for ids in parts:
        if ids.shape[1]:
            after, state = decoder.extend(state, ids)
            logits.append(after[rows])
    return torch.cat(logits, 1)


@contextmanager
def narrow_windows(network: "transformers.PreTrainedModel", width: int) -> Iterator[None]:
    """Context in which no window is wider than `width` tokens.

    A few tokens pass such a window, where the windows of most networks take thousands. Masks and
    caches that are made inside have it.
    """
    config = network.config
    holders = {id(each): each for each in (config, config.get_text_config(), *network.modules())}
    before: list[tuple[Any, str, int]] = []
    for holder in holders.values():
        for name in WINDOWS:
            window = vars(holder).get(name)
            if isinstance(window, int) and window > width:
                before.append((holder, name, window))
    try:
        for holder, name, _ in before:
            setattr(holder, name, width)
        yield
    finally:
        for holder, name, window in before:
            setattr(holder, name, window)


def check_contract(batch: Batch) -> None:
    """Check `start` and `extend` of the decoder at the draws 1, 2, 4, 8 and so on of its class.

    A `LanguageModel` was checked when it was made.

    Raises:
        TypeError: if a state cannot be selected.
        ValueError: if logits have another shape, or if the logits of tokens that are read together
            differ from those of tokens that are read one by one.
    """
    decoder, prompts, size = batch.decoder, batch.prompts, batch.space.vocab_size
    _NUM_DRAWS[type(decoder)] += 1
    count = _NUM_DRAWS[type(decoder)]
    if isinstance(decoder, CachedDecoder) or decoder.in_step or count & (count - 1):
        return
    name, device = type(decoder).__name__, batch.rows.device
    first, state = decoder.start(prompts)
    _check_shape(f"{name}.start", first, (len(prompts), size))
    if isinstance(state, Tensor) or not hasattr(state, "select"):
        got = f"the state of {name}.start is a {type(state).__name__}, without `select(rows)`"
        raise TypeError(f"{got}, expected one whose `select` gives the state of the sequences")
    words = (~batch.space.is_end(torch.arange(size, device=device))).nonzero().squeeze(1)
    num_tokens = min(STEPS, batch.space.max_new_tokens - 1)
    if num_tokens == 0 or len(words) == 0:
        return
    rows = batch.rows.flatten()[:2]
    places = 7 * torch.arange(len(rows) * num_tokens, device=device) + 1
    ids = words[places % len(words)].view(len(rows), num_tokens)

    def extended(state: Any, ids: Tensor) -> tuple[Tensor, Any]:
        logits, state = decoder.extend(state, ids)
        _check_shape(f"{name}.extend", logits, (*ids.shape, size))
        return logits, state

    together, later = extended(state.select(rows), ids)[0], state.select(rows)
    one_by_one = []
    for token in ids.split(1, 1):
        logits, later = extended(later, token)
        one_by_one.append(logits)
    _check_same(f"{name}.extend", together, torch.cat(one_by_one, 1))


def _check_shape(what: str, logits: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(logits.shape) != expected:
        got = f"{what} returned logits of shape {tuple(logits.shape)}"
        raise ValueError(f"{got}, expected {expected}: one number for each token of the vocabulary")


def _check_same(what: str, together: Tensor, one_by_one: Tensor) -> None:
    """Refuse logits of other log-probabilities, up to rounding."""
    difference = largest_difference(together, one_by_one)
    spread = one_by_one.double().clamp(-100.0, 100.0).std(-1).mean().item()
    if difference > TOLERANCE.get(together.dtype, 1.0) * (spread + 1.0):
        raise ValueError(
            f"{what} gives tokens that are read together other log-probabilities than tokens that "
            f"are read one by one, by up to {difference:.2g} nats: responses would be drawn from "
            "another distribution than they are scored by"
        )
