"""Fingerprint of a fit: a description, by name, of everything that the result depends on.

    {"prompts.texts": "('the film was',)", "model.beta": "0.3", "objective.num_particles": "8",
     "model.prior.network.weights": "#5a0c...", ...}

A short value is described by itself, a long value by its digest after "#".

    numbers, texts, tensors   by value
    modules                   by class, attributes, values; trained parameters of a guide by name,
                              shape and type
    objects                   by class and attributes, and by code for classes outside this project
                              and its packages
    functions                 by compiled code, defaults, closure, and variables of their module or
                              of other modules; code depends on the version of Python

A private list, dict or set may be a cache, and may be empty on one side. Values that the fit itself
changes, such as a count of calls, are left out. A schedule of the learning rate counts by its code
alone in a fit of more steps, because a longer schedule has other numbers. Of an absolute path of
this machine only the last part counts.
"""

import re
from collections.abc import Mapping
from typing import Any

from inference.svi.checkpoint.description import Description, Leaves, join
from inference.svi.checkpoint.object_parts import code_of
from model.common.files import text_digest
from model.common.paths import without_folders

LONG = 80  # number of characters above which a value is described by its digest
SHOWN = 4  # number of differences in an error
EMPTY = ("dict", "()", "[]")  # descriptions of an empty dict, list and set
RUNS_CODE = ("model", "guide", "objective")  # run the user's code, and so may change in the fit
_CONTAINER = re.compile(r"dict|\d+ items")
_PRIVATE = re.compile(r"(.*?\.)?_[^.]*")


class Fingerprint:
    """Description of a fit at its start: of model, guide, prompts, objective, optimizer, settings.

    Attributes:
        leaves: the description, by name.
        changed: names that the fit has changed since; a name that ends in "." includes all below.
    """

    def __init__(self, *, num_steps: int = 0, **parts: Any) -> None:
        self._schedule = {"num_steps": num_steps, "leaf": ""}
        self._parts = {name: part for name, part in parts.items() if name in RUNS_CODE}
        self._describe = Description()
        self.leaves: Leaves = {}
        for name, part in parts.items():
            self.leaves |= self._leaves(name, part)
        self.changed: set[str] = set()

    def to_json(self) -> dict[str, Any]:
        """The fingerprint for a checkpoint, with the names of all that the fit has changed."""
        self._describe.forget()
        now: Leaves = {}
        for name, part in self._parts.items():
            now |= self._leaves(name, part)
        before = {name: leaf for name, leaf in self.leaves.items() if _part(name) in self._parts}
        self.changed |= {name for name in now.keys() & before.keys() if now[name] != before[name]}
        for name in now.keys() ^ before.keys():
            parent = name.rpartition(".")[0]
            grows = any(_CONTAINER.fullmatch(side.get(parent, "")) for side in (before, now))
            self.changed |= {f"{parent}."} if grows else {name, f"{name}."}
        return {"leaves": self.leaves, "changed": sorted(self.changed), "schedule": self._schedule}

    def differences(self, saved: Mapping[str, Any], *, guide: bool) -> str:
        """Differences to a saved fingerprint, in the guide or in all other parts, in words."""
        before, now = saved["leaves"], self.leaves
        names = [
            name
            for name in dict.fromkeys([*before, *now])
            if name.startswith("guide") == guide
            and before.get(name) != now.get(name)
            and not _is_below(name, saved["changed"])
            and not _may_be_unfilled_cache(name, before, now)
        ]
        if names:
            differences = [_difference(name, before, now) for name in names[:SHOWN]]
            more = len(names) - SHOWN
            return "; ".join(differences) + (f"; and {more} more" if more > 0 else "")
        ours, theirs = self._schedule, saved["schedule"]
        same_steps = ours["num_steps"] == theirs["num_steps"]
        if not guide and same_steps and ours["leaf"] != theirs["leaf"]:
            return "other numbers in optimizer.schedule"
        return ""

    def _leaves(self, name: str, part: Any) -> Leaves:
        self._describe.trains = name != "model"
        leaves = self._describe(part)
        if getattr(part, "schedule", None) is not None:
            leaves = {key: leaf for key, leaf in leaves.items() if _part(key) != "schedule"}
            leaves["schedule"] = code_of(part.schedule)
            self._schedule["leaf"] = text_digest(str(self._describe(part.schedule)))
        pairs = [(without_folders(key), without_folders(leaf)) for key, leaf in leaves.items()]
        return {
            join(name, key): leaf if len(leaf) <= LONG else f"#{text_digest(leaf)}"
            for key, leaf in pairs
        }


def _part(name: str) -> str:
    return name.split(".")[0]


def _is_below(name: str, parents: list[str]) -> bool:
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in parents)


def _may_be_unfilled_cache(name: str, *sides: Mapping[str, str]) -> bool:
    """True if a name is below a private container that is empty on one side."""
    match = _PRIVATE.match(name)
    return match is not None and any(
        side.get(match[0]) in EMPTY and not any(key.startswith(f"{match[0]}.") for key in side)
        for side in sides
    )


def _difference(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in before:
        return f"no {name}"
    if name not in now:
        return f"{name} that is not there now"
    if before[name].startswith("#") or now[name].startswith("#"):
        return f"other {name}"
    return f"{before[name]}, got {now[name]} ({name})"
