"""Refusals: errors that name an option, told apart from faults of the program."""

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / package}/" for package in ("experiments", "inference", "guides", "model"))
FAULTS = OSError, ValueError, TypeError, ArithmeticError, RuntimeError, ImportError, SafetensorError
"""Errors of libraries for a path, name, text or number that they do not accept."""


@contextmanager
def blamed(option: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Exit with an option, as on the command line, at a refusal or an error of a type in `also`."""
    try:
        yield
    except Exception as error:
        if not (is_refusal(error) or isinstance(error, also)):
            raise
        raise SystemExit(f"{option}: {one_line(error)}") from error


@contextmanager
def resume_hint(hint: Callable[[], str], is_resumed: bool = False) -> Iterator[None]:
    """Add a hint on how to resume, unless empty, to an interrupt or error of the code inside.

    The hint of a resumed run is the command that was run: a refusal has none.
    """
    try:
        yield
    except BaseException as error:
        if not (is_resumed and is_refusal(error)) and (text := hint()):
            error.add_note(text)
        raise


def is_refusal(error: BaseException) -> bool:
    """True for an exit with a message, an error of a file or of memory, and a `raise` of ours.

    An error inside an expression of this project is a fault of the program, whatever its type.
    """
    of_machine = isinstance(error, OSError | MemoryError | torch.OutOfMemoryError)
    is_exit = isinstance(error, SystemExit) and isinstance(error.code, str)
    if is_exit or of_machine or "can't allocate memory" in str(error):
        return True
    trace = error.__traceback__
    if trace is None or not isinstance(error, FAULTS):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    is_raise = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return code.co_filename.startswith(OURS) and is_raise


def one_line(error: BaseException) -> str:
    """Message of an error on one line; the name of its class if the message is empty."""
    message = str(error).partition("Trace Shapes:")[0]  # Pyro appends a table
    return " ".join(message.split()) or type(error).__name__
