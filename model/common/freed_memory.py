"""Freed memory, which the C library may keep for this process."""

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it and can give it back.

    Reading a network of 135 million weights from a GGUF file left 300 MB of freed memory with the
    process, beside 269 MB of weights.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
