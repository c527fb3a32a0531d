"""Refusals: errors that name an option, told apart from faults of the program."""

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / package}/" for package in ("experiments", "inference", "guides", "model"))
FAULTS = (
    OSError,
    ValueError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    SafetensorError,
)
"""Errors that libraries raise for a path, name, text or number that they do not accept."""


@contextmanager
def blamed(option: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Exit with an option, as on the command line, if the code inside refuses the option's value.

    `also` has further errors that count as refusals: `FAULTS` where other libraries read files.
    """
    try:
        yield
    except Exception as error:
        if not (is_refusal(error) or isinstance(error, also)):
            raise
        raise SystemExit(f"{option}: {one_line(error)}") from error


@contextmanager
def resume_hint(hint: Callable[[], str]) -> Iterator[None]:
    """Add a hint on how to resume, unless empty, to any interrupt or error of the code inside."""
    try:
        yield
    except BaseException as error:
        if text := hint():
            error.add_note(text)
        raise


def is_refusal(error: BaseException) -> bool:
    """True for an error of a file or of memory, and for a `raise` statement of this project.

    An error inside an expression of this project is a fault of the program, whatever its type.
    """
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or isinstance(error, OSError) or "can't allocate memory" in str(error):
        return True
    return isinstance(error, FAULTS) and _is_raised_here(error.__traceback__)


def one_line(error: BaseException) -> str:
    """Message of an error on one line; the name of its class if the message is empty."""
    message = str(error).partition("Trace Shapes:")[0]  # Pyro appends a table
    return " ".join(message.split()) or type(error).__name__


def _is_raised_here(trace: TracebackType | None) -> bool:
    """True if the innermost frame is at a `raise` statement of this project."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    is_raise = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return code.co_filename.startswith(OURS) and is_raise
