"""A lock on Pyro's parameter store and handlers and on torch's generators, which belong to the whole process.

Two fits in two threads would read each other's parameters and draw each other's random numbers. Whatever runs programs or
draws holds this lock meanwhile, and a second thread waits for the first: a fit gives what it would give on its own.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

THREAD_LOCK = threading.RLock()
"""Re-entrant: a callback of a fit may measure its guide, or run another fit, in the same thread."""

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run by one thread at a time."""

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with THREAD_LOCK:
            return function(*args, **kwargs)

    return locked
