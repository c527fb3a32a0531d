"""A lock on the state of the whole process: Pyro's parameter store and torch's generators.

Every run of a program and every draw holds this lock, so that a fit has the result of a lone fit.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

PATIENCE = 60.0  # seconds of waiting after which a thread says for what it may wait in vain


class ThreadLock:
    """A re-entrant lock whose waiting threads say so during a long call of a reward.

    A fit waits for its rewards. A thread for which a reward waits must not wait for the fit, and no
    one can tell such a thread from others: a server starts threads while a reward runs.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_calling = False

    def is_owned(self) -> bool:
        """True if this thread holds the lock."""
        return self._lock._is_owned()  # type: ignore[attr-defined]

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Context in which the owner of the lock, if this thread is, calls a reward or a factor."""
        if not self.is_owned():
            yield
            return
        outer, self._is_calling = self._is_calling, True
        try:
            yield
        finally:
            self._is_calling = outer

    def acquire(self) -> None:
        """Wait for the lock. Warns after `PATIENCE` seconds if the owner waits for a reward."""
        if self._lock.acquire(timeout=PATIENCE):
            return
        if self._is_calling:
            warnings.warn(
                f"the thread {threading.current_thread().name!r} waits for a fit or a sampler that "
                "waits for a reward: if the reward waits for this thread, neither ends. Run "
                "programs, draws and fits of a reward in the thread that calls the reward",
                stacklevel=3,
            )
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


THREAD_LOCK = ThreadLock()
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
