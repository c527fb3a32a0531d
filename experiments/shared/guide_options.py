"""The choice of a guide in a script: one of the registry, by name, with options of its own; saved and loaded with both."""

from __future__ import annotations

import json
from dataclasses import asdict, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from experiments.shared.refusals import blamed
from guides import GUIDES, Guide, OtherGuideError
from model import LanguageModel, Prompts
from model.common.digests import DamagedFileError, check_digests, saved_together
from model.networks.source import PretrainedError

FILE = "guide.json"


def _attribute(name: str) -> str:
    return name.replace("-", "_")


_FAMILIES = {name: family.options for name, family in GUIDES.items() if family.options}

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
