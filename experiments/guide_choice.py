"""The choice of a guide in a script: one of the registry, by name, with options of its own; saved and loaded with both."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, field, fields, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from guides import GUIDES, Family, Guide
from model import LanguageModel, Prompts

FILE = "guide.json"
PLAIN = (bool, int, float, str, NoneType)


def _can_be_typed(hint: Any) -> bool:
    """Whether a value of this type can be given on a command line."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(_can_be_typed, get_args(hint)))
    return hint in PLAIN or get_origin(hint) is Literal


def _options(name: str, family: Family) -> type:
    """A dataclass of the keyword-only arguments of a family that can be typed; the family's docstring has their help."""
    make: Callable = family.make.__init__ if inspect.isclass(family.make) else family.make
    hints = get_type_hints(make)
    typed = [
        (parameter.name, hints[parameter.name], field(default=parameter.default))
        for parameter in inspect.signature(make).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and _can_be_typed(hints[parameter.name])
    ]
    title = "".join(part.title() for part in name.split("-"))
    return make_dataclass(f"{title}Options", typed, frozen=True, namespace={"__doc__": inspect.getdoc(family.make)})


def _attribute(name: str) -> str:
    return name.replace("-", "_")


_FAMILIES = {name: options for name, family in GUIDES.items() if fields(options := _options(name, family))}

if TYPE_CHECKING:
    GuideOptions: TypeAlias = Any
else:
    GuideOptions = make_dataclass(
        "GuideOptions",
        [(_attribute(name), options, field(default=options())) for name, options in _FAMILIES.items()],
        frozen=True,
    )
    GuideOptions.__doc__ = "Options of every guide that has any; those of the guides that were not chosen play no part."


def build_guide(name: str, options: dict[str, Any], prior: LanguageModel, prompts: Prompts) -> Guide:
    """The guide of this name, from its own options.

    Raises:
        SystemExit: if it cannot be had.
    """
    try:
        return GUIDES[name](prior, prompts, **options)
    except ValueError as error:
        raise SystemExit(f"--guide {name}: {error}") from error


def options_of(name: str, options: GuideOptions) -> dict[str, Any]:
    """The options of one guide, by their names."""
    return asdict(getattr(options, _attribute(name))) if name in _FAMILIES else {}


def save_guide(folder: Path, guide: Guide, name: str, options: dict[str, Any]) -> None:
    """Write the guide, in its own format, and the name and options that it was built from."""
    guide.save_pretrained(folder)
    (folder / FILE).write_text(json.dumps({"guide": name, "options": options}, indent=2) + "\n")


def load_guide(folder: Path, prior: LanguageModel, prompts: Prompts) -> Guide:
    """The guide that `save_guide` wrote, for the prior that it was built from."""
    saved = json.loads((folder / FILE).read_text())
    guide = build_guide(saved["guide"], saved["options"], prior, prompts)
    guide.load_pretrained(folder)
    return guide


def check_options(name: str, options: GuideOptions) -> None:
    """Exit if an option of a guide was given that was not chosen."""
    for other, family in _FAMILIES.items():
        given, default = getattr(options, _attribute(other)), family()
        for option in fields(family):
            if other != name and getattr(given, option.name) != getattr(default, option.name):
                flag = f"--{other}.{option.name.replace('_', '-')}"
                raise SystemExit(f"{flag} is for --guide {other}, got --guide {name}")


def restored_options(saved: dict[str, dict[str, Any]]) -> GuideOptions:
    """The options from what `dataclasses.asdict` made of them."""
    return GuideOptions(**{_attribute(name): family(**saved[_attribute(name)]) for name, family in _FAMILIES.items()})
