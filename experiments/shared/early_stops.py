"""Fits that stop before their last step, in a list for a script that runs many."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from inference.svi.loop import Fit

_EARLY_STOPS: ContextVar[list[str] | None] = ContextVar("early_stops", default=None)


@contextmanager
def early_stops() -> Iterator[list[str]]:
    """List of the fits inside that stop before their last step, each with the reason."""
    stops: list[str] = []
    token = _EARLY_STOPS.set(stops)
    try:
        yield stops
    finally:
        _EARLY_STOPS.reset(token)


def recorded_early_stops() -> list[str]:
    """List of the innermost `early_stops` so far; empty outside."""
    return list(_EARLY_STOPS.get() or ())


def record_early_stop(result: Fit, name: str) -> None:
    """Add a fit to the list of `early_stops` if the fit stopped early."""
    stops = _EARLY_STOPS.get()
    if result.stopped_early is not None and stops is not None:
        stops.append(f"{name}: stopped early at {result.stopped_early}")
