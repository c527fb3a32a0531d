"""Options of guides on the command line, such as `--lora.rank 4`."""

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, field, fields, make_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin

from guides import GUIDES

PLAIN = {bool, int, float, str, NoneType}
"""Types of values that a command line writes."""


def keyword_only(make: Callable[..., Any]) -> list[inspect.Parameter]:
    """The keyword-only arguments of a guide."""
    arguments = inspect.signature(make, eval_str=True).parameters.values()
    return [each for each in arguments if each.kind is each.KEYWORD_ONLY]


def dataclass_of(name: str, make: Callable[..., Any]) -> type:
    """Dataclass of the keyword-only arguments of a guide, with help from its docstring.

    The default of a required argument is None.
    """
    options = []
    for argument in keyword_only(make):
        hint = argument.annotation
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        written = tuple(part for part in parts if part in PLAIN or get_origin(part) is Literal)
        if {*written} - {NoneType}:
            given: Any = Union[written]  # noqa: UP007
            default = None if argument.default is argument.empty else argument.default
            given = given | None if default is None else given
            options.append((argument.name, given, field(default=default)))
    _, _, helps = (inspect.getdoc(make) or "").partition("Args:\n")
    helps = re.split(r"\n(?=\S)", helps)[0]  # the next section is not indented
    document = {"__doc__": f"Options of `{name}`.\n\nArgs:\n{helps}"}
    return make_dataclass("Options", options, frozen=True, namespace=document)


EVERY = {name.replace("-", "_"): dataclass_of(name, each.make) for name, each in GUIDES.items()}
OPTIONS = {name: options for name, options in EVERY.items() if fields(options)}
"""Dataclass of the options of each guide that has options, by attribute of `GuideOptions`."""

if TYPE_CHECKING:
    GuideOptions: TypeAlias = Any
else:
    GuideOptions = make_dataclass(
        "GuideOptions",
        [(name, make, field(default=make())) for name, make in OPTIONS.items()],
        frozen=True,
    )
    GuideOptions.__doc__ = "Options of every guide; only the options of the chosen guide count."


def check_options(name: str, options: GuideOptions) -> None:
    """Exit if an option is set of a guide that is not chosen, or lacks that the guide needs."""
    default = asdict(GuideOptions())
    for other, given in asdict(options).items():
        guide = other.replace("_", "-")
        for option, value in given.items():
            if guide != name and value != default[other][option]:
                flag = f"--{guide}.{option.replace('_', '-')}"
                raise SystemExit(f"{flag} is for --guide {guide}, got --guide {name}")
    own = asdict(options).get(name.replace("-", "_"), {})
    for argument in keyword_only(GUIDES[name].make):
        if argument.default is argument.empty and own.get(argument.name) is None:
            fix = "has no default: expected a value"
            if argument.name not in own:
                fix = "has no default, and no words can write it: give it one"
            raise SystemExit(f"--{name}.{argument.name.replace('_', '-')} {fix}")
