"""The choice of a guide in a script: one of the registry, by name, with options of its own; saved and loaded with both."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, field, fields, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from experiments.shared.command_line import blamed
from guides import GUIDES, Family, Guide, OtherGuideError
from model import LanguageModel, Prompts
from model.common.digests import DamagedFileError, check_digests, saved_together
from model.networks.source import PretrainedError

FILE = "guide.json"
RATES = {"last-layers": 3e-4, "norms-and-biases": 3e-3, "prefix": 1e-2}
"""Learning rates that suit the embedded prior, where an option makes another one fit than that of the family."""
PLAIN = (bool, int, float, str, NoneType)


def _typed(hint: Any) -> Any:
    """That part of a type whose values can be given on a command line; None if there is none."""
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if _typed(part)]
        return Union[tuple(parts)] if parts else None  # noqa: UP007 - made of a list
    return hint if hint in PLAIN or get_origin(hint) is Literal else None


def _options(name: str, family: Family) -> type:
    """A dataclass of the keyword-only arguments of a family that can be typed; the family's docstring has their help."""
    make: Callable = family.make.__init__ if inspect.isclass(family.make) else family.make
    hints = get_type_hints(make)
    typed = [
        (parameter.name, _typed(hints[parameter.name]), field(default=parameter.default))
        for parameter in inspect.signature(make).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and _typed(hints[parameter.name])
    ]
    title = "".join(part.title() for part in name.split("-"))
    return make_dataclass(
        f"{title}Options", typed, frozen=True, namespace={"__doc__": inspect.getdoc(family.make)}
    )


def _attribute(name: str) -> str:
    return name.replace("-", "_")


_FAMILIES = {
    name: options for name, family in GUIDES.items() if fields(options := _options(name, family))
}

if TYPE_CHECKING:
    GuideOptions: TypeAlias = Any
else:
    GuideOptions = make_dataclass(
        "GuideOptions",
        [
            (_attribute(name), options, field(default=options()))
            for name, options in _FAMILIES.items()
        ],
        frozen=True,
    )
    GuideOptions.__doc__ = "Options of every guide that has any; those of the guides that were not chosen play no part."


def build_guide(
    name: str, options: dict[str, Any], prior: LanguageModel, prompts: Prompts
) -> Guide:
    """The guide of this name, from its own options.

    Raises:
        SystemExit: if it cannot be had.
    """
    with blamed(f"--guide {name}"):
        return GUIDES[name](prior, prompts, **options)


def options_of(name: str, options: GuideOptions) -> dict[str, Any]:
    """The options of one guide, by their names."""
    return asdict(getattr(options, _attribute(name))) if name in _FAMILIES else {}


def learning_rate(name: str, options: dict[str, Any]) -> float:
    """A peak of Adam's rate that suits a guide on the embedded prior; a mixture's is that of its components."""
    family = GUIDES[options["component"]] if name == "mixture" else GUIDES[name]
    chosen = str(options.get("subset", options.get("kind")))
    return RATES.get(chosen, family.learning_rate)


def save_guide(
    folder: Path, guide: Guide, name: str, options: dict[str, Any], prompts: Prompts
) -> None:
    """Write the guide, in its own format, and the name, options, prompts and vocabulary that it was built from."""
    record = {
        "guide": name,
        "options": options,
        "prompts": prompts.texts,
        "vocabulary": prompts.vocabulary,
    }
    with saved_together(folder) as new:
        guide.save_pretrained(new)
        (new / FILE).write_text(json.dumps(record, indent=2) + "\n")


def load_guide(folder: Path, prior: LanguageModel) -> Guide:
    """The guide that `save_guide` wrote, for the prior that it was built from.

    Raises:
        SystemExit: if it does not fit that prior, or is not as it was saved.
    """
    saved = _read(folder)
    if saved.get("vocabulary") not in (None, prior.vocabulary):
        raise SystemExit(
            f"{folder} is of a guide whose tokenizer has other entries than the prior's: its token ids would be other words. "
            "Name the prior of that run."
        )
    guide = build_guide(saved["guide"], saved["options"], prior, prior.encode(saved["prompts"]))
    try:
        guide.load_pretrained(folder)
    except OtherGuideError as error:
        raise SystemExit(f"{error} Name the prior of that run.") from error
    except PretrainedError as error:
        raise SystemExit(str(error)) from error
    return guide


def _read(folder: Path) -> dict[str, Any]:
    """The record that `save_guide` wrote beside the guide; exits if it is not as it was saved."""
    try:
        check_digests(folder)
        saved = json.loads((folder / FILE).read_bytes())
        whole = (
            saved["guide"] in GUIDES
            and isinstance(saved["options"], dict)
            and isinstance(saved["prompts"], list)
        )
    except DamagedFileError as error:
        raise SystemExit(str(error)) from error
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise SystemExit(
            f"{folder / FILE} is damaged: expected name, options and prompts of a guide as JSON"
        )
    return saved


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
    return GuideOptions(
        **{
            _attribute(name): family(**saved.get(_attribute(name), {}))
            for name, family in _FAMILIES.items()
        }
    )
