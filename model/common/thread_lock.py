"""A lock on the state of the whole process: Pyro's parameter store and torch's generators.

Every run of a program and every draw holds this lock, so that a fit has the result of a lone fit.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar


class ThreadLock:
    """A re-entrant lock that refuses a thread for which its owner waits.

    A fit waits for its rewards. A thread that a reward has started would wait for the fit.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._before: set[threading.Thread] | None = None  # threads before the call of a reward
        self._of_rewards: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def is_owned(self) -> bool:
        """True if this thread holds the lock."""
        return self._lock._is_owned()  # type: ignore[attr-defined]

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Context in which the owner of the lock, if this thread is, calls a reward or a factor."""
        if not self.is_owned():
            yield
            return
        outer, before = self._before, set(threading.enumerate())
        self._before = before
        try:
            yield
        finally:
            self._before = outer
            self._of_rewards.update(set(threading.enumerate()) - before)

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            RuntimeError: in a thread that a reward has started, during the call of a reward.
        """
        if self._lock.acquire(blocking=False):
            return
        thread, before = threading.current_thread(), self._before
        if before is not None and (thread not in before or thread in self._of_rewards):
            raise RuntimeError(
                f"the thread {thread.name!r}, which a reward or a factor has started, would wait "
                "for the fit or the sampler that waits for this reward: run programs, draws and "
                "fits in the thread that calls the reward"
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
