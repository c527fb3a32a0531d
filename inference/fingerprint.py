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
out. A schedule of the learning rate is described by its code alone: a fit of more steps has a longer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from inference.description import Description, code_of, join

Fingerprint = dict[str, str]
SHOWN = 4  # differences that an error names


def fingerprint_of(**parts: Any) -> Fingerprint:
    """Describe everything that a fit depends on: model, guide, prompts, objective, optimizer and settings, by these names."""
    describe = Description()
    found: Fingerprint = {}
    for name, part in parts.items():
        leaves = describe(part)
        schedule = getattr(part, "schedule", None)
        if schedule is not None:
            leaves = {key: leaf for key, leaf in leaves.items() if key.split(".")[0] != "schedule"}
            leaves["schedule"] = code_of(schedule)
        found |= {join(name, key): leaf for key, leaf in leaves.items()}
    return {name: leaf if len(leaf) <= 80 else _digest(leaf) for name, leaf in found.items()}


def differences(saved: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is another in a fit than in the saved one, in words; empty if nothing is."""
    odd = [name for name in dict.fromkeys([*saved, *now]) if saved.get(name) != now.get(name)]
    told = [_told(name, saved.get(name), now.get(name)) for name in odd[:SHOWN]]
    return "; ".join(told) + (f"; and {len(odd) - SHOWN} more" if len(odd) > SHOWN else "")


def _told(name: str, saved: str | None, now: str | None) -> str:
    if saved is None:
        return f"no {name}"
    if now is None:
        return f"{name} that is not there now"
    if saved.startswith("#") or now.startswith("#"):
        return f"other {name}"
    return f"{saved}, got {now} ({name})"


def _digest(leaf: str) -> str:
    return f"#{hashlib.blake2b(leaf.encode(), digest_size=16).hexdigest()}"
