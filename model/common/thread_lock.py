"""A lock on the state of the whole process: Pyro's parameter store and torch's generators.

Every run of a program and every draw holds this lock, so that a fit has the result of a lone fit.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

THREAD_LOCK = threading.RLock()
"""Re-entrant: a callback of a fit may run another fit in the same thread."""

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run by one thread at a time."""

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with THREAD_LOCK:
            return function(*args, **kwargs)

    return locked
