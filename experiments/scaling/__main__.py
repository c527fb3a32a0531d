"""The cost of a step of a large prior on several GPUs, on paper: memory, arithmetic, network.

Question: what does a step of a large prior cost on several GPUs, and which part stops first?
Printed: bytes of one GPU by part, and the floor of each phase of a step at rated speeds: the
longest of arithmetic, memory and network. Nothing is run. `docs/scaling.md` explains the tables.

    python -m experiments.scaling
    python -m experiments.scaling --networks 70b --gpus 16 --link 50
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from experiments.scaling.costs import NETWORKS, Machine, Step
from experiments.shared.argument_types import DISTINCT, Count, Positive, count
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import text_table

NetworkName: TypeAlias = Literal[tuple(NETWORKS)]  # type: ignore[valid-type]
GB = 1e9
WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"rank": 8, "sharded": False},
    "sharded": {"rank": 8, "sharded": True},
    "gathered": {"rank": 8, "sharded": True, "gathers_draws": True},
    "fine-tuned": {"rank": 0, "sharded": True, "gathers_draws": True},
}
"""LoRA on a whole prior, sharded, and sharded but gathered once for a draw; all weights trained."""


@dataclass(frozen=True)
class Scaling(Arguments):
    """Compute the cost of a step on several GPUs."""

    networks: Annotated[tuple[NetworkName, ...], DISTINCT] = tuple(NETWORKS)
    """Shapes of the prior."""
    gpus: Annotated[int, count(2)] = 8
    """Number of GPUs."""
    responses: Count = 512
    """Number of responses of a step, over all GPUs."""
    prompt: Count = 128
    """Number of tokens of a prompt."""
    length: Count = 512
    """Number of tokens of a response."""
    micro_batch: Count = 8
    """Number of responses of a GPU that are scored with gradient at a time."""
    link: Positive = 450.0
    """Speed of the network from GPU to GPU in one direction, GB a second."""


def main(args: Scaling) -> str:
    """Print the tables of memory and of seconds."""
    machine = Machine(link=args.link * GB)
    sizes = (args.gpus, args.responses, args.prompt, args.length, args.micro_batch)
    tables = []
    for name in args.networks:
        steps = {way: Step(NETWORKS[name], *sizes, **options) for way, options in WAYS.items()}
        memory = [step.memory() for step in steps.values()]
        rows = {part: [f"{each[part] / GB:.2f}" for each in memory] for part in memory[0]}
        title = f"{name}: memory of one of {args.gpus} GPUs, GB"
        tables.append(f"{title}\n{text_table(list(steps), rows)}")
        phases = [step.seconds(machine) for step in steps.values()]
        rows = {phase: [_floor(each[phase]) for each in phases] for phase in phases[0]}
        rows["sum"] = [f"{sum(map(max, each.values())):.2f}" for each in phases]
        title = f"{name}: floor of a step, seconds, and the part that sets the floor"
        tables.append(f"{title}\n{text_table(list(steps), rows)}")
    text = "\n\n".join(tables)
    print(text)
    return text


def _floor(seconds: tuple[float, float, float]) -> str:
    """The longest of arithmetic, memory and network, with its name."""
    names = ("arithmetic", "memory", "network")
    longest, name = max(zip(seconds, names, strict=True))
    return f"{longest:.2f} {name}"


if __name__ == "__main__":
    run_script(main, Scaling)
