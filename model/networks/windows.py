"""Windows of attention: how many tokens back, or in a chunk, a layer of a network reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers

WINDOWS = ("sliding_window", "attention_chunk_size")
"""Names of windows in configurations and layers of `transformers`."""


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
