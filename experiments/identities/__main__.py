"""Identities and bounds of other papers, each a sum over all responses of a small world.

Claim: equations and bounds that papers state hold to rounding, and statements about noise hold by
two standard errors, or by Student's t over a few seeds, on a world of 85 responses.
Source: the docstring of each check, in the files of this folder.
Printed: the error of each equation, and measured numbers with standard errors.

The prior is an untrained network, the rewards are random numbers from 0 to 1. `docs/papers.md` has
a heading for each paper.

    python -m experiments.identities
    python -m experiments.identities --only chi-po dera
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments.identities.world import World
from experiments.shared import argument_types
from experiments.shared.claims import ClaimArguments, Finding, conclude
from experiments.shared.command_line import run_script

Check = Callable[[World], list[Finding]]


def checks_of(file: Path) -> dict[str, Check]:
    """Functions of a file that take a world and return findings, by the name of the check.

    The name is that of the function; `_check` at the end is of a function whose name is taken.
    """
    module = import_module(f"experiments.identities.{file.stem}")
    checks: dict[str, Check] = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        types = [*inspect.get_annotations(function).values()]
        if types == [World, list[Finding]] and function.__module__ == module.__name__:
            key = name.removesuffix("_check").replace("_plus", "+").replace("_", "-")
            checks[key] = function
    return checks


FILES = sorted(Path(__file__).parent.glob("[!_]*.py"))
CHECKS = {name: check for file in FILES for name, check in checks_of(file).items()}
"""Checks by name: all functions of this folder that take a world and return findings."""


@dataclass(frozen=True)
class Identities(ClaimArguments):
    """Check identities and bounds of other papers on a world of 85 responses."""

    only: tuple[str, ...] = ()
    """Checks by name, such as chi-po. Default: all."""


def main(args: Identities) -> list[Finding]:
    world = World.of()
    size, to_prior, to_guide = (
        len(world.reward),
        world.gap(world.log_prior),
        world.gap(world.log_guide),
    )
    about = f"{size} responses, log Z {world.log_z:.3f}, beta {world.model.beta:g}; from p* in KL: "
    table = f"{about}prior {to_prior:.2f} nats, guide {to_guide:.2f} nats"
    findings = []
    for name in argument_types.chosen(args.only, CHECKS):
        for statement, held in CHECKS[name](world):
            findings.append(Finding(f"{name}, {statement}", held))
    return conclude(__doc__, [table], findings)


if __name__ == "__main__":
    run_script(main, Identities)
