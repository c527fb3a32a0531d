"""The event loop of asynchronous reward functions, in a thread of its own.

A thread of its own, since the caller may be inside a running loop, as a notebook is. One loop for
all calls, since clients of web services hold on to the loop of their first call.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop of this process, by process id: a forked child has no threads of its parent."""
_STARTING = threading.Lock()


def settled(values: Sequence[Any]) -> list[Any]:
    """The values, with the results of those that are awaitable, which run concurrently."""
    if not any(isinstance(value, Awaitable) for value in values):
        return list(values)
    future = asyncio.run_coroutine_threadsafe(_gathered(values), _loop())
    try:
        return future.result()
    except BaseException:  # an interrupt of the caller ends the calls too
        future.cancel()
        raise


async def _gathered(values: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(_settled, values)))


async def _settled(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


def _loop() -> asyncio.AbstractEventLoop:
    """The running loop of this process, started on the first call."""
    with _STARTING:
        if os.getpid() not in _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
            _LOOPS[os.getpid()] = loop
        return _LOOPS[os.getpid()]
