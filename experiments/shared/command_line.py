"""The command line of every script: `run_script(main, Arguments)`, and one line on stderr for what cannot be.

Exit codes: 0; 1 where a claim did not hold, or after a traceback, which is a fault of the program; 2 for what is refused; 128
and the number of the signal after an interrupt. `--debug` shows the traceback of what is refused.
"""

from __future__ import annotations

import dis
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

import torch
import tyro
from safetensors import SafetensorError
from transformers.utils import logging

from experiments.shared.arguments import Arguments, check_used, hints_of, option, parts

A = TypeVar("A", bound=Arguments)
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
"""Errors that the libraries underneath raise where a path, a name, a text or a number cannot be."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came, which ends a script as Ctrl-C does."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run_script(
    main: Callable[[A], object], arguments: type[A], argv: Sequence[str] | None = None
) -> NoReturn:
    """Read the command line, run the script, and exit.

    Args:
        main: the script. Findings in the list that it returns, if it does, decide the exit code.
        arguments: its arguments.
        argv: the command line; default that of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.disable_progress_bar()  # of transformers, for each file it loads
    logging.set_verbosity_error()
    with until_nobody_reads(), interrupts():
        try:
            given = given_options(words)
            check_words(words, arguments)
            about = f"{arguments.__doc__}\n\n--debug shows where in the program it is that something is refused."
            args = tyro.cli(arguments, args=words, description=about)
            args = args.completed(
                lambda own: tyro.cli(arguments, args=words, description=about, default=own)
            )
            check_used(args, given)
            findings = main(args)
        except KeyboardInterrupt as interrupt:
            number = getattr(interrupt, "signum", signal.SIGINT)
            how = _notes(interrupt) or "There is nothing to go on from: start it again."
            _say(f"Ended by {signal.Signals(number).name}. {how}", 128 + number)
        except SystemExit as refusal:
            if not isinstance(refusal.code, str):
                raise
            _refuse(refusal, debug)
        except BrokenPipeError:
            raise
        except Exception as error:
            if not is_refusal(error):
                raise
            _refuse(error, debug)
    sys.exit(
        int(
            isinstance(findings, list)
            and not all(getattr(finding, "held", True) for finding in findings)
        )
    )


def given_options(words: Sequence[str]) -> set[str]:
    """The fields that a command line names; exits if it names one twice, of which the first would be ignored."""
    given: set[str] = set()
    for word in words:
        if not word.startswith("--") or len(word) < 3:
            continue
        name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
        if name in given:
            raise SystemExit(f"{word.partition('=')[0]} is given twice: leave one of them out")
        given.add(name)
    return given


def check_words(words: Sequence[str], arguments: type[Arguments]) -> None:
    """Exit at an empty path, which the system takes for the folder that one is in, and at bytes that are no text."""
    paths = {
        option(name) for name, hint in hints_of(arguments).items() if Path in {hint, *parts(hint)}
    }
    name = "command line"
    for word in words:
        name, given, value = word.partition("=") if word.startswith("--") else (name, "=", word)
        if given and name.replace("_", "-") in paths and not value.strip():
            raise SystemExit(f"{name} is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SystemExit(f"{name}: {value!r} is no text in UTF-8")


@contextmanager
def blamed(where: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around what is made of an option: exit with its name if that is refused.

    Args:
        where: the option, as it was given.
        also: errors that are no fault of the program in here; `FAULTS` where files are loaded and libraries read them.
    """
    try:
        yield
    except Exception as error:
        if not (is_refusal(error) or isinstance(error, also)):
            raise
        raise SystemExit(f"{where}: {one_line(error)}") from error


@contextmanager
def going_on(how: Callable[[], str]) -> Iterator[None]:
    """Around what takes long: after an interrupt or an error it is said how to go on, unless that is empty."""
    try:
        yield
    except BaseException as error:
        if said := how():
            error.add_note(said)
        raise


def is_refusal(error: BaseException) -> bool:
    """Whether an error says what cannot be: of a file, of memory, or raised by a statement of this project.

    An error that a line of ours runs into, of whatever type, is a fault of the program.
    """
    if isinstance(
        error, OSError | MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error):
        return True
    return isinstance(error, FAULTS) and _was_raised_here(error.__traceback__)


def one_line(error: BaseException) -> str:
    """The message of an error, or its name if it has none."""
    said = str(error).partition("Trace Shapes:")[0]  # a table that Pyro adds
    return " ".join(said.split()) or type(error).__name__


def _was_raised_here(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is one of this project, and stands at a `raise`."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return (
        code.co_filename.startswith(OURS)
        and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    )


def _refuse(error: BaseException, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    said, notes = one_line(error), _notes(error)
    _say(f"{said.removesuffix('.')}. {notes}" if notes else said, 2)


def _notes(error: BaseException) -> str:
    """How to go on, in the words of the outermost note, which knows the command line; empty if there is none."""
    return "".join(getattr(error, "__notes__", [])[-1:])


def _say(text: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(text, file=sys.stderr)
    sys.exit(code)


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """What is printed may be read by something like `head`: once that has seen enough, the script ends without a word."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what is still to be written
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP all raise a KeyboardInterrupt in here."""

    def raise_it(signum: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(signum)

    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    handlers |= {
        getattr(signal, name): raise_it for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
