"""Check of a decoder written by hand: responses are drawn as they are scored.

A draw reads tokens one by one, a score reads them together. Where the logits of the two differ,
every objective descends the loss of another distribution than the one that is drawn from.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from model.prior.batch import Batch
from model.prior.cached_decoder import CachedDecoder
from model.prior.decoder import Decoder
from model.prior.decoder_check import STEPS, TOLERANCE, largest_difference

_NUM_DRAWS: Counter[type[Decoder]] = Counter()
"""Number of draws by class of decoder; training may move logits apart that were equal before."""


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
