"""The fingerprint of a fit: what its result depends on, described by name, so that a resume can say what is another.

    {"prompts.texts": "('the film was',)", "model.beta": "0.3", "objective.num_particles": "8",
     "model.prior.network.weights": "#5a0c...", ...}

A value that is short stands for itself, a long one for its digest after "#".

    numbers, texts, tensors       by value
    modules                       by class, attributes, values of what is frozen; names, shapes, types of what trains
    objects, of any class         by class and attributes; code too, if the class is not this project's or an installed one
    functions                     by compiled code, defaults, closure, and those of their module's variables that they name;
                                  another version of Python compiles to another code

What is private and a list, a dict or a set, in an object or a module that is not this project's, is taken for a cache and left
out. So is what the fit itself changes, such as a count of calls. A schedule of the learning rate goes by its code alone:
a fit of more steps has a longer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.code_description import code_of
from inference.description import Description, Leaves, join
from model.digests import text_digest

LONG = 80  # characters of a value, above which it is told by its digest
SHOWN = 4  # differences that an error names
LIVING = ("model", "guide")
"""Parts that are looked at again: the fit runs the user's code in them."""


class Fingerprint:
    """Everything that a fit depends on, as it was at the start.

    Args:
        parts: model, guide, prompts, objective, optimizer and settings, by these names.

    Attributes:
        leaves: the description, by name.
        living: names of what has changed since, which the fit itself does, and what is below them.
    """

    def __init__(self, **parts: Any) -> None:
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
        before = {name: leaf for name, leaf in self.leaves.items() if name.split(".")[0] in self._parts}
        self.living |= {name for name in now.keys() & before.keys() if now[name] != before[name]}
        self.living |= {f"{name.rpartition('.')[0]}." for name in now.keys() ^ before.keys()}
        return {"leaves": self.leaves, "living": sorted(self.living)}

    def differences(self, saved: Mapping[str, Any], *, guide: bool) -> str:
        """Differences to the saved fingerprint, in the guide or in all else, in words; empty if there are none."""
        before, now = saved["leaves"], self.leaves
        living = tuple(saved["living"])
        names = [name for name in dict.fromkeys([*before, *now]) if name.startswith("guide") == guide]
        odd = [name for name in names if before.get(name) != now.get(name) and not _is_below(name, living)]
        differences = [_told(name, before.get(name), now.get(name)) for name in odd[:SHOWN]]
        return "; ".join(differences) + (f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else "")

    def _leaves(self, name: str, part: Any) -> Leaves:
        leaves = self._describe(part)
        if getattr(part, "schedule", None) is not None:
            leaves = {key: leaf for key, leaf in leaves.items() if key.split(".")[0] != "schedule"}
            leaves["schedule"] = code_of(part.schedule)
        return {join(name, key): leaf if len(leaf) <= LONG else f"#{text_digest(leaf)}" for key, leaf in leaves.items()}


def _is_below(name: str, living: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in living)


def _told(name: str, saved: str | None, now: str | None) -> str:
    if saved is None:
        return f"no {name}"
    if now is None:
        return f"{name} that is not there now"
    if saved.startswith("#") or now.startswith("#"):
        return f"other {name}"
    return f"{saved}, got {now} ({name})"
