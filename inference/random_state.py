"""The state of every random generator that a fit draws from: torch's on each device, Python's and NumPy's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from model import checks


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as tensors, and as what JSON can hold."""
    tensors = {"cpu": torch.get_rng_state()}
    tensors |= (
        {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())} if torch.cuda.is_available() else {}
    )
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def restore(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Undo everything drawn since `capture`."""
    torch.set_rng_state(tensors["cpu"].cpu())
    for name, state in tensors.items():
        if name != "cpu":
            torch.cuda.set_rng_state(state.cpu(), name)
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = plain["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed all generators for the duration of the context, and put them back as they were after it.

    Raises:
        ValueError: if the seed is none that all of them take.
    """
    seed = checks.seed("seed", seed)
    before = capture()
    try:
        pyro.set_rng_seed(seed)
        yield
    finally:
        restore(*before)
