"""Options of guides on the command line, such as `--lora.rank 4`."""

from dataclasses import asdict, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from guides import GUIDES


def _attribute(name: str) -> str:
    return name.replace("-", "_")


OPTIONS = {name: family.options for name, family in GUIDES.items() if family.options}
"""Dataclass of the options of each guide that has options."""

if TYPE_CHECKING:
    GuideOptions: TypeAlias = Any
else:
    GuideOptions = make_dataclass(
        "GuideOptions",
        [(_attribute(name), make, field(default=make())) for name, make in OPTIONS.items()],
        frozen=True,
    )
    GuideOptions.__doc__ = "Options of every guide; only the options of the chosen guide count."


def options_of(name: str, options: GuideOptions) -> dict[str, Any]:
    """Options of one guide, by name."""
    return asdict(getattr(options, _attribute(name))) if name in OPTIONS else {}


def check_options(name: str, options: GuideOptions) -> None:
    """Exit if an option is set of a guide that is not chosen."""
    for other, make in OPTIONS.items():
        given, default = getattr(options, _attribute(other)), make()
        for option in fields(make):
            if other != name and getattr(given, option.name) != getattr(default, option.name):
                flag = f"--{other}.{option.name.replace('_', '-')}"
                raise SystemExit(f"{flag} is for --guide {other}, got --guide {name}")


def restored_options(saved: dict[str, dict[str, Any]]) -> GuideOptions:
    """Options from their form as JSON."""
    values = {_attribute(name): make for name, make in OPTIONS.items()}
    return GuideOptions(**{name: make(**saved[name]) for name, make in values.items()})
