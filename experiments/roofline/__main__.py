"""Each phase of a step beside its floor on this device, and beside the same work by hand.

Question: how much faster could a step be on this device, and does it cost more than the network's
own work: one decode and two scorings?
Claim: a step takes at most 1.25 times the time of a raw `generate`, a forward pass of the prior,
and a forward and a backward pass of the guide together. On a GPU a step takes at most twice its
floor, at 512 responses of 40 tokens from a network of the sizes of GPT-2 small, in bfloat16. A step
of SmolLM2 in bfloat16 with LoRA fits into 3 GB on a CPU, loading included.
Source: measured here.
Printed: the ceilings, measured in the same run; by network and phase the time, the floor, the time
by hand, the ratios, and tokens a second; the peak of the memory. Times are medians over rounds, of
one CPU thread in CPU time. A round is one of each, so that other load on the machine falls on all.
The ratio to the work by hand is one of means, with its standard error over rounds.

A floor is the larger of two times: arithmetic at the rate of a large matrix product, and weights
and cache at the bandwidth of a large copy. A step draws from the guide, scores under prior and
guide, and takes the gradient; the reward counts token ids, which costs nothing. By hand, `generate`
goes on to the last token, and a pass reads prompt and response of each in one.

    python -m experiments.roofline
    python -m experiments.roofline --networks film-reviews smollm2 --responses 32 --dtype bfloat16
    python -m experiments.roofline --networks gpt2-small smollm2-135m --responses 512 \
        --max-new-tokens 40 --dtype bfloat16 --compiled nothing decode
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple

import pyro
import torch

from experiments.roofline.by_hand import ByHand, phases
from experiments.roofline.floors import Ceilings, Work, seconds_of
from experiments.roofline.networks import load, prompt_of
from experiments.shared import argument_types as types
from experiments.shared.claims import ClaimArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.cost import SVIStep, cheap_reward, forget_peak, peak_memory, ratio_of_means
from experiments.shared.refusals import blamed
from experiments.shared.tables import cell, text_table
from guides import FineTuned, LoRA
from inference import Estimate, LeaveOneOut_ELBO
from model import AlignmentModel
from model.common.devices import named_device, named_dtype

HEADER = ("ms", "floor, ms", "ratio", "by hand, ms", "ratio", "tokens/s")
STEP = "step"
TO_FLOOR, TO_HAND, MEMORY = 2.0, 1.25, 3.0
"""Largest ratio of a step to its floor, and to the work by hand; largest peak, GB; as claimed."""
GUIDES: dict[str, type[LoRA | FineTuned]] = {"lora": LoRA, "fine-tuned": FineTuned}


@dataclass(frozen=True)
class Roofline(ClaimArguments):
    """Time a step beside its floor, and beside the same work by hand."""

    networks: Annotated[tuple[types.Name, ...], types.SOME] = ("gpt2-tiny",)
    """Networks: shapes with random weights (gpt2-tiny, gpt2-small, smollm2-135m, llama-1.5b), or
    priors as in `experiments.steer`."""
    guide: Literal["lora", "fine-tuned"] = "lora"
    """The guide that trains."""
    responses: Annotated[int, types.count(2)] = 64
    """Number of responses to one prompt."""
    max_new_tokens: types.Length = 16
    """Number of tokens of a response."""
    prompt_tokens: types.Count = 4
    """Number of words of the prompt."""
    dtype: types.DtypeName = "float32"
    """Type of the prior's weights."""
    device: types.Device | None = None
    """Device, `cpu` or `cuda`. Default: a GPU if there is one."""
    compiled: Annotated[tuple[Literal["nothing", "decode"], ...], types.SOME] = ("nothing",)
    """Compiled parts of a step, one table for each: none, or the draw, as by `experiments.steer
    --compile`."""
    rounds: types.Count = 5
    """Number of timed rounds, of which the median is printed, after one that is not timed."""


def main(args: Roofline) -> list[Finding]:
    """Print the phases of each network, and return the findings that the claim is about."""
    device = named_device(args.device)
    ceilings = Ceilings.measured(device, named_dtype(args.dtype))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, {args.dtype}: {ceilings.flops / 1e12:.3g} TFLOP/s of a matrix product, "
        f"{ceilings.bandwidth / 1e9:.3g} GB/s of a copy",
        flush=True,
    )
    runs = itertools.product(args.networks, args.compiled)
    findings = [finding for each in runs for finding in measure(*each, ceilings, args)]
    return conclude(__doc__, [], findings)


class Cost(NamedTuple):
    """Seconds of a phase, of its floor, of the same work by hand, and the ratio to the last."""

    seconds: float
    floor: float
    by_hand: float
    to_hand: Estimate

    def cells(self, num_tokens: int) -> list[str]:
        """Row of the table."""
        times = f"{self.seconds * 1e3:.1f} {self.floor * 1e3:.2f} {self.seconds / self.floor:.1f}"
        hand = [f"{self.by_hand * 1e3:.1f}", cell(*self.to_hand)]
        return [*times.split(), *hand, f"{num_tokens / self.seconds:,.0f}"]


def measure(name: str, compiled: str, ceilings: Ceilings, args: Roofline) -> list[Finding]:
    """Print the phases of one network, and return the findings that it tests."""
    device = named_device(args.device)
    forget_peak()
    pyro.set_rng_seed(0)
    options: dict[str, Any] = {"dtype": args.dtype, "device": args.device}
    options["compile_decode"] = compiled == "decode"
    prior = load(name, args.max_new_tokens, **options)
    with blamed("--prompt-tokens"):
        prompts = prior.encode([prompt_of(name, args.prompt_tokens)]).to(prior.device)
    guide = GUIDES[args.guide](prior)
    model = AlignmentModel(prior, cheap_reward, beta=1.0)
    step = SVIStep(model, guide, LeaveOneOut_ELBO(args.responses), prompts)
    loaded = peak_gigabytes(device)
    step()
    stepped = peak_gigabytes(device)  # before the work by hand, which takes more
    sizes = (args.responses, prompts.ids.shape[1], args.max_new_tokens)
    work = Work.of(prior.network, *sizes, trained=float(args.guide == "fine-tuned"))
    floors = [work.decode(ceilings), work.score(ceilings), work.score_and_gradient(ceilings)]
    ours = phases(prior, guide, prompts, args.responses)
    hand = ByHand(prior, guide, prompts, args.responses).parts()
    times = seconds_of([*ours.values(), step, *hand], device, args.rounds)
    costs = costs_of([*ours, STEP], times, floors)
    rows = {phase: cost.cells(sizes[0] * sizes[2]) for phase, cost in costs.items()}
    print(
        f"\n{args.guide} on {name}, compiled {compiled}: "
        f"{args.responses} responses of {args.max_new_tokens} tokens\n{text_table(HEADER, rows)}\n"
        f"peak memory: {loaded:.2f} GB with prior and guide loaded, {stepped:.2f} GB after a step"
    )
    whole, job = costs[STEP], (name, args.dtype, device.type)
    subject = f"step by the same work by hand, {name}, compiled {compiled}"
    findings = [within(subject, whole.to_hand, below=TO_HAND, num_runs=args.rounds)]
    if (*job, *sizes[::2]) == ("gpt2-small", "bfloat16", "cuda", 512, 40):
        ratio = whole.seconds / whole.floor
        findings.append(
            within(f"step by its floor, {name}, compiled {compiled}", ratio, below=TO_FLOOR)
        )
    if (*job, args.guide) == ("smollm2", "bfloat16", "cpu", "lora"):
        findings.append(within(f"peak memory of {name}, GB", stepped, below=MEMORY))
    return findings


def costs_of(
    names: Sequence[str], times: Sequence[Sequence[float]], floors: Sequence[float]
) -> dict[str, Cost]:
    """Costs of the phases and, as the last name, of the step.

    `times` are of the phases, of the step, and of the phases by hand, each by round. The floor of
    the step, and its time by hand, are sums over the phases.
    """
    ours, parts = times[: len(names)], times[len(names) :]
    hand = [*parts, [sum(each) for each in zip(*parts, strict=True)]]
    costs = {}
    for name, own, other, floor in zip(names, ours, hand, [*floors, sum(floors)], strict=True):
        costs[name] = Cost(median(own), floor, median(other), ratio_of_means(own, other))
    return costs


def peak_gigabytes(device: torch.device) -> float:
    """Peak of the memory of the GPU, or of the process on a CPU, GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_memory() / 1e3


if __name__ == "__main__":
    run_script(main, Roofline)
