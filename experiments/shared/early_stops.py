"""Fits that stopped before their last step, gathered wherever they were run, for the report that has to tell them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from inference import Fit

_FOUND: ContextVar[list[str] | None] = ContextVar("early_stops", default=None)


@contextmanager
def early_stops() -> Iterator[list[str]]:
    """A list of the fits inside that stopped early, each with the reason."""
    stops: list[str] = []
    token = _FOUND.set(stops)
    try:
        yield stops
    finally:
        _FOUND.reset(token)


def gather(result: Fit, name: str) -> None:
    """Add a fit to the list, if it stopped early."""
    stops = _FOUND.get()
    if result.stopped_early is not None and stops is not None:
        stops.append(f"{name}: stopped early at {result.stopped_early}")
