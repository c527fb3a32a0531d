"""The fingerprint of a fit: what its result depends on, described by name, so that a resume can say what is another.

    {"prompts.texts": "('the film was',)", "model.beta": "0.3", "objective.num_particles": "8",
     "model.prior.network.weights": "#5a0c...", ...}

A value that is short stands for itself, a long one for its digest after "#".

    numbers, texts, tensors       by value
    modules                       by class, attributes, values; in a guide names, shapes, types of what trains
    objects, of any class         by class and attributes; code too, if the class is not this project's or an installed one
    functions                     by compiled code, defaults, closure, and those of their module's variables that they name,
                                  or of other modules through one; another version of Python compiles to another code

What is private and a list, a dict or a set may be a cache: one that is empty is not held against one that is filled. What the
fit itself changes, such as a count of calls, is left out. In a fit of more steps a schedule of the learning rate goes by its
code alone, since a longer one is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inference.svi.checkpoint.code_description import code_of
from inference.svi.checkpoint.description import Description, Leaves, join
from model.common.digests import text_digest

LONG = 80  # characters of a value, above which it is told by its digest
SHOWN = 4  # differences that an error names
EMPTY = ("dict", "()", "[]")
"""Descriptions of a dict, a list and a set without items."""
_CONTAINER = re.compile(r"dict|\d+ items")
_PRIVATE = re.compile(r"(.*?\.)?_[^.]*")
LIVING = ("model", "guide")
"""Parts that are looked at again: the fit runs the user's code in them."""


class Fingerprint:
    """Everything that a fit depends on, as it was at the start.

    Args:
        parts: model, guide, prompts, objective, optimizer and settings, by these names.
        num_steps: steps of the fit in all.

    Attributes:
        leaves: the description, by name.
        living: names of what has changed since, which the fit itself does, and what is below them.
    """

    def __init__(self, *, num_steps: int = 0, **parts: Any) -> None:
        self._schedule = {"num_steps": num_steps, "leaf": ""}
        self._parts = {name: part for name, part in parts.items() if name in LIVING}
        self._describe = Description()
        self.leaves: Leaves = {}
        for name, part in parts.items():
            self.leaves |= self._leaves(name, part)
        self.living: set[str] = set()

    def to_json(self) -> dict[str, Any]:
        """The fingerprint for a checkpoint, without what the fit has changed."""
        self._describe.forget()
        now: Leaves = {}
        for name, part in self._parts.items():
            now |= self._leaves(name, part)
        before = {
            name: leaf for name, leaf in self.leaves.items() if name.split(".")[0] in self._parts
        }
        self.living |= {name for name in now.keys() & before.keys() if now[name] != before[name]}
        for name in now.keys() ^ before.keys():
            parent = name.rpartition(".")[0]
            grows = any(_CONTAINER.fullmatch(side.get(parent, "")) for side in (before, now))
            self.living |= {f"{parent}."} if grows else {name, f"{name}."}
        return {"leaves": self.leaves, "living": sorted(self.living), "schedule": self._schedule}

    def differences(self, saved: Mapping[str, Any], *, guide: bool) -> str:
        """Differences to the saved fingerprint, in the guide or in all else, in words; empty if there are none."""
        before, now = saved["leaves"], self.leaves
        living = tuple(saved["living"])
        names = [
            name for name in dict.fromkeys([*before, *now]) if name.startswith("guide") == guide
        ]
        odd = [
            name
            for name in names
            if before.get(name) != now.get(name) and not _is_below(name, living)
        ]
        odd = [name for name in odd if not _is_unfilled(name, before, now)]
        differences = [_told(name, before.get(name), now.get(name)) for name in odd[:SHOWN]]
        ours, theirs = self._schedule, saved["schedule"]
        if (
            not guide
            and not odd
            and ours["num_steps"] == theirs["num_steps"]
            and ours["leaf"] != theirs["leaf"]
        ):
            return "other numbers in optimizer.schedule"
        return "; ".join(differences) + (
            f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        )

    def _leaves(self, name: str, part: Any) -> Leaves:
        self._describe.trains = name != "model"
        leaves = self._describe(part)
        if getattr(part, "schedule", None) is not None:
            leaves = {key: leaf for key, leaf in leaves.items() if key.split(".")[0] != "schedule"}
            leaves["schedule"] = code_of(part.schedule)
            self._schedule["leaf"] = text_digest(str(self._describe(part.schedule)))
        return {
            join(name, key): leaf if len(leaf) <= LONG else f"#{text_digest(leaf)}"
            for key, leaf in leaves.items()
        }


def _is_below(name: str, living: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in living)


def _is_unfilled(name: str, *sides: Mapping[str, str]) -> bool:
    """Whether a part may be a cache, for its private name, and is empty on one side."""
    found = _PRIVATE.match(name)
    if found is None:
        return False
    return any(
        side.get(found[0]) in EMPTY and not any(other.startswith(f"{found[0]}.") for other in side)
        for side in sides
    )


def _told(name: str, saved: str | None, now: str | None) -> str:
    if saved is None:
        return f"no {name}"
    if now is None:
        return f"{name} that is not there now"
    if saved.startswith("#") or now.startswith("#"):
        return f"other {name}"
    return f"{saved}, got {now} ({name})"
