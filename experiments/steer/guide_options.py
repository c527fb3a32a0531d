"""Options of guides on the command line, such as `--lora.rank 4`."""

from dataclasses import asdict, field, make_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from guides import GUIDES

OPTIONS = {
    name.replace("-", "_"): family.options for name, family in GUIDES.items() if family.options
}
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


def options_of(name: str, options: GuideOptions) -> dict[str, Any]:
    """Options of one guide, by name."""
    return asdict(options).get(name.replace("-", "_"), {})


def check_options(name: str, options: GuideOptions) -> None:
    """Exit if an option is set of a guide that is not chosen."""
    default = asdict(GuideOptions())
    for other, given in asdict(options).items():
        guide = other.replace("_", "-")
        for option, value in given.items():
            if guide != name and value != default[other][option]:
                flag = f"--{guide}.{option.replace('_', '-')}"
                raise SystemExit(f"{flag} is for --guide {guide}, got --guide {name}")
