"""Fingerprint of a fit: a description, by name, of everything that the result depends on.

    {"prompts.texts": "('the film was',)", "model._beta": "0.3", "objective.num_particles": "8",
     "model.prior.network.frozen weights": "#5a0c...", ...}

`description.py` says how an object is described. A long text is replaced by its digest after "#",
an absolute path of this machine by its last part.

Values that the fit itself changes, such as a count of calls, do not count. A private list, dict,
set or None that one side lacks may be a memory, and does not count. A schedule of the learning rate
counts by its code alone in a fit of more steps, because a longer schedule has other numbers.
"""

import re
from collections.abc import Mapping
from typing import Any

from inference.svi.checkpoint.description import describe
from model.common.files import text_digest
from model.common.paths import without_folders

LONG = 80  # number of characters above which a text is replaced by its digest
SHOWN = 4  # number of differences in an error
RUNS_CODE = ("model", "guide", "objective")  # run the user's code, and so may change in the fit


class Fingerprint:
    """Description of a fit at its start: of model, guide, prompts, objective, optimizer, settings.

    Attributes:
        texts: the description, by name.
        changed: names that the fit has changed since; all parts below such a name have changed.
    """

    def __init__(self, **parts: Any) -> None:
        self._parts = {name: part for name, part in parts.items() if name in RUNS_CODE}
        self.texts = _texts(parts)
        self.changed: set[str] = set()

    def to_json(self) -> dict[str, Any]:
        """The fingerprint for a checkpoint, with the names of all that the fit has changed."""
        now = _texts(self._parts)
        self.changed |= {name for name, text in now.items() if self.texts.get(name) != text}
        return {"texts": self.texts, "changed": sorted(self.changed)}

    def differences(self, saved: Mapping[str, Any], *, guide: bool) -> str:
        """Differences to a saved fingerprint, in the guide or in all other parts, in words."""
        before, now = saved["texts"], self.texts
        ignored = [*saved["changed"], "num_steps"]
        if before.get("num_steps") != now.get("num_steps"):
            ignored += [n for n in [*before, *now] if n.startswith("optimizer.schedule.")]
        names = [
            name
            for name in dict.fromkeys([*before, *now])
            if name.startswith("guide") == guide
            and before.get(name) != now.get(name)
            and not any(name == one or name.startswith(f"{one}.") for one in ignored)
            and not _may_be_unfilled_memory(name, before, now)
        ]
        differences = [_difference(name, before, now) for name in names[:SHOWN]]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return "; ".join(differences + more)


def _texts(parts: Mapping[str, Any]) -> dict[str, str]:
    texts = {}
    for part_name, part in parts.items():
        for name, text in describe(part, trains=part_name != "model").items():
            text = without_folders(text)
            text = text if len(text) <= LONG else f"#{text_digest(text)}"
            texts[without_folders(f"{part_name}.{name}".removesuffix("."))] = text
    return texts


def _may_be_unfilled_memory(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """True if a name is that of a memory, or below a memory, that one side lacks."""
    ends = [match.end() for match in re.finditer(r"\._[^.]*\?(?=\.|$)", name)]
    return any((name[:end] in before) != (name[:end] in now) for end in ends)


def _difference(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    shown = re.sub(r"\._([^.?]*)\??", r".\1", name)
    if name not in before:
        return f"no {shown}"
    if name not in now:
        return f"{shown} that is not there now"
    if before[name].startswith("#") or now[name].startswith("#"):
        return f"other {shown}"
    return f"{before[name]}, got {now[name]} ({shown})"
