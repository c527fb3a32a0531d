"""Command line of every script: `Arguments` declares the options, `run_script` parses them.

    @dataclass(frozen=True)
    class Coin(Arguments):
        flips: Count = 100
        bias: Annotated[float, number(above=0, below=1)] = 0.5

    run_script(main, Coin)

Exit codes: 0 for success; 1 for a claim that did not hold, or a traceback; 2 for a refusal, which
is one line on stderr; 128 plus the number of the signal after an interrupt.
"""

import os
import signal
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar, Union, get_args, get_origin

import torch
import tyro
from transformers.utils import logging

from experiments.shared.argument_types import Check, Used
from experiments.shared.early_stops import early_stops
from experiments.shared.refusals import is_refusal, one_line
from model.common.checks import one_of


class Arguments:
    """Base of the dataclass of a script's arguments. Exits at the first value out of range.

    A field's type holds its range, see `argument_types`. None passes: the script has a default.
    """

    def __post_init__(self) -> None:
        try:
            for name, hint in hints_of(type(self)).items():
                _check(option(name), hint, getattr(self, name))
        except ValueError as error:
            raise SystemExit(str(error)) from error

    def completed(self, parse: Callable[[Self], Self]) -> Self:
        """These arguments, or, by `parse` with other defaults, those of a run that they name."""
        return self


A = TypeVar("A", bound=Arguments)


def run_script(
    main: Callable[[A], object], arguments: type[A], argv: Sequence[str] | None = None
) -> NoReturn:
    """Parse the command line, run the script with its number of `threads`, if any, and exit.

    Args:
        main: the script. If `main` returns a list of findings, they decide the exit code.
        arguments: dataclass of the arguments.
        argv: words of the command line; None for those of the process.
    """
    given = sys.argv[1:] if argv is None else argv
    words = [word for word in given if word != "--debug"]
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by the shell's >&-
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="backslashreplace")  # as stderr
    logging.disable_progress_bar()  # of transformers, one for each file
    logging.set_verbosity_error()
    with _until_nobody_reads(), _one_line_warnings(), interrupts(), early_stops():
        try:
            title = (getattr(main, "__globals__", {}).get("__doc__") or "").partition("\n")[0]
            args = _parse(words, arguments, title)
            if (threads := getattr(args, "threads", None)) is not None:
                torch.set_num_threads(threads)
            findings = main(args)
        except KeyboardInterrupt as interrupt:
            number = next(iter(interrupt.args), signal.SIGINT)
            hint = _note(interrupt) or "There is nothing to resume from: start it again."
            _exit(f"Ended by {signal.Signals(number).name}. {hint}", 128 + number)
        except BrokenPipeError:
            raise
        except (Exception, SystemExit) as error:
            if not is_refusal(error):
                raise
            if "--debug" in given:
                traceback.print_exception(error)
            message, note = one_line(error), _note(error)
            _exit(f"{message.removesuffix('.')}. {note}" if note else message, 2)
    sys.exit(isinstance(findings, list) and not all(getattr(x, "held", True) for x in findings))


def _parse(words: list[str], arguments: type[A], title: str = "") -> A:
    """Arguments by a command line. Exits at an option that has no effect beside the others."""
    given = given_options(words)
    _check_words(words, arguments)
    about = f"{title}\n\n{arguments.__doc__}\n\n--debug prints the traceback of a refusal."
    module = getattr(sys.modules["__main__"].__spec__, "name", "").removesuffix(".__main__")
    prog = f"python -m {module}" if module else f"python {sys.argv[0]}"
    parse: Callable[..., A] = partial(tyro.cli, arguments, args=words, prog=prog, description=about)
    first = parse()
    args = first.completed(lambda default: parse(default=default))
    check_used(given & without_effect(first).keys(), args)
    check_used(given, args, "beside the arguments of --config or --resume, ")
    for name in given & vars(args).keys() if args is first else ():
        if getattr(args, name) == getattr(arguments, name, None) == ():
            raise SystemExit(f"{option(name)} has no effect where it names nothing: leave it out")
    return args


def check_used(given: Container[str], args: Any, where: str = "") -> None:
    """Exit at the first given field that has no effect beside the others."""
    for name, reason in without_effect(args).items():
        if name in given:
            raise SystemExit(f"{where}{option(name)} has no effect {reason}: leave it out")


def without_effect(args: Any) -> dict[str, str]:
    """The reason for each field that has no effect beside the others, as in "with --time"."""
    reasons: dict[str, str] = {}
    for name, hint in hints_of(type(args)).items():
        for part in pieces(hint):
            if isinstance(part, Used) and not part.when(args):
                reasons.setdefault(name, part.unless)
    return reasons


def given_options(words: Sequence[str]) -> set[str]:
    """Names of the fields on a command line. Exits if an option is given twice."""
    given: set[str] = set()
    for word in words:
        if not word.startswith("--") or len(word) < 3:
            continue
        name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
        if name in given:
            raise SystemExit(f"{word.partition('=')[0]} is given twice: leave one of them out")
        given.add(name)
    return given


def _check_words(words: Sequence[str], arguments: type[Arguments]) -> None:
    """Exit at an empty path, which would mean the current folder, and at invalid UTF-8."""
    paths = {option(n) for n, hint in hints_of(arguments).items() if Path in {hint, *pieces(hint)}}
    name = "command line"
    for word in words:
        name, given, value = word.partition("=") if word.startswith("--") else (name, "=", word)
        if given and name.replace("_", "-") in paths and not value.strip():
            raise SystemExit(f"{name} is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SystemExit(f"{name}: {value!r} is no text in UTF-8")


hints_of = partial(typing.get_type_hints, include_extras=True)  # with the annotations


def option(field: str) -> str:
    """Name of a field on the command line."""
    return f"--{field.replace('_', '-')}"


def pieces(hint: Any) -> Iterator[Any]:
    """Pieces of a type, and the annotations of the type and of its pieces."""
    for part in get_args(hint):
        yield from (part, *pieces(part))


def _check(name: str, hint: Any, value: Any) -> None:
    """Run the checks annotated to a type and to its parts; a `Literal` lists its values."""
    if value is None:
        return
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, Check):
        hint.check(name, value)
    elif origin is Literal:
        one_of(name, value, parts)
    elif origin is tuple:
        for item in value:
            _check(name, parts[0], item)
    elif origin in (Annotated, Union, UnionType):
        for part in (*parts[1:], parts[0]):  # annotations before the type
            _check(name, part, value)


def _note(error: BaseException) -> str:
    """Hint on how to resume, from the outermost frame, which knows the command line."""
    return "".join(getattr(error, "__notes__", [])[-1:])


def _exit(text: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(text, file=sys.stderr)
    sys.exit(code)


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    """End the script silently once the reader of stdout, such as `head`, has closed the pipe."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the rest of the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print each warning as one line, without its place in the source."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {one_line(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def interrupts() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into a KeyboardInterrupt with the number of the signal."""

    def raise_interrupt(signum: int, _: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt(signum)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, raise_interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
