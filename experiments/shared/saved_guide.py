"""Guides by name: build a guide with its options, save it, and load it again for its prior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.shared.refusals import blamed
from guides import GUIDES, Guide, OtherGuideError
from model import LanguageModel, Prompts
from model.common.digests import DamagedFileError, check_digests, saved_together
from model.networks.source import PretrainedError

FILE = "guide.json"


def build_guide(
    name: str, options: dict[str, Any], prior: LanguageModel, prompts: Prompts
) -> Guide:
    """Build a guide by name; exit if an option or the prior does not suit the guide."""
    with blamed(f"--guide {name}"):
        return GUIDES[name](prior, prompts, **options)


def save_guide(
    folder: Path, guide: Guide, name: str, options: dict[str, Any], prompts: Prompts
) -> None:
    """Save a guide in its own format, with the name, options, prompts and vocabulary behind it."""
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
    """Load a guide that `save_guide` wrote; exit if it is damaged or of another prior."""
    record = _read(folder)
    if record.get("vocabulary") not in (None, prior.vocabulary):
        raise SystemExit(
            f"{folder} is of a guide whose tokenizer has other entries than the prior's: its token "
            "ids would be other words. Name the prior of that run."
        )
    guide = build_guide(record["guide"], record["options"], prior, prior.encode(record["prompts"]))
    try:
        guide.load_pretrained(folder)
    except OtherGuideError as error:
        raise SystemExit(f"{error} Name the prior of that run.") from error
    except PretrainedError as error:
        raise SystemExit(str(error)) from error
    return guide


def _read(folder: Path) -> dict[str, Any]:
    """Record beside a saved guide; exits if the record is damaged."""
    try:
        check_digests(folder)
        record = json.loads((folder / FILE).read_bytes())
        types = {"options": dict, "prompts": list}
        is_whole = all(isinstance(record[name], kind) for name, kind in types.items())
        is_whole = is_whole and record["guide"] in GUIDES
    except DamagedFileError as error:
        raise SystemExit(str(error)) from error
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        expected = "expected name, options and prompts of a guide as JSON"
        raise SystemExit(f"{folder / FILE} is damaged: {expected}")
    return record
