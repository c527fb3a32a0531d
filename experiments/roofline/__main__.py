"""Each phase of a step beside its floor: how near a step is to what the device can do.

Question: how much faster could a step be on this device?
Claim: on a GPU a step takes at most twice its floor, at 512 responses of 40 tokens from a network
of the sizes of GPT-2 small, in bfloat16. Other sizes and a CPU do not test the claim.
Source: measured here.
Printed: the ceilings, measured in the same run; by shape and phase the time, the floor, their
ratio, and tokens a second; the peak memory on a GPU.

A floor is the larger of two times: arithmetic at the rate of a large matrix product, and weights
and cache at the bandwidth of a large copy. A step draws from the guide, scores under prior and
guide, and takes the gradient; the reward counts token ids, which costs nothing.

    python -m experiments.roofline
    python -m experiments.roofline --shapes gpt2-small smollm2-135m --responses 512 \
        --max-new-tokens 40 --dtype bfloat16 --compile
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import pyro
import torch
from torch import Tensor

from experiments.roofline.ceilings import Ceilings, median_seconds
from experiments.roofline.floors import Work
from experiments.roofline.shapes import SHAPES, random_prior
from experiments.shared import argument_types as types
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import text_table
from guides import GUIDES
from inference import LeaveOneOut_ELBO
from inference.diagnostics.timing import SVIStep, cheap_reward
from model import AlignmentModel, LanguageModel
from model.networks.placement import named_device, named_dtype

HEADER = ("ms", "floor, ms", "ratio", "tokens/s")
STEP = "step"
MOST = 2.0
"""Largest ratio of a step to its floor, as claimed."""
ShapeName: TypeAlias = Literal[tuple(SHAPES)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Roofline(Arguments):
    """Time a step beside its floor."""

    shapes: Annotated[tuple[ShapeName, ...], types.SOME] = ("gpt2-tiny",)
    """Shapes of networks with random weights."""
    guide: Literal["lora", "fine-tuned"] = "lora"
    """The guide that trains."""
    responses: Annotated[int, types.count(2)] = 64
    """Number of responses to one prompt."""
    max_new_tokens: types.Length = 16
    """Number of tokens of a response."""
    prompt_tokens: types.Count = 4
    """Number of tokens of the prompt."""
    dtype: types.DtypeName = "float32"
    """Type of the prior's weights."""
    device: types.Device | None = None
    """Device, `cpu` or `cuda`. Default: a GPU if there is one."""
    compile: bool = False
    """Draw responses by a compiled step, as `experiments.steer --compile` does."""
    rounds: types.Count = 3
    """Number of timed rounds, of which the median is printed."""
    threads: types.Threads = 1
    """Number of CPU threads."""


def main(args: Roofline) -> list[Finding]:
    """Print the phases of each shape, and return the findings that the claim is about."""
    device, dtype = named_device(args.device), named_dtype(args.dtype)
    ceilings = Ceilings.measured(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, {args.dtype}: {ceilings.flops / 1e12:.3g} TFLOP/s of a matrix product, "
        f"{ceilings.bandwidth / 1e9:.3g} GB/s of a copy",
        flush=True,
    )
    ratios = {}
    for shape in args.shapes:
        pyro.set_rng_seed(0)
        options = {"compile_decode": args.compile}
        prior = random_prior(shape, args.max_new_tokens, device, dtype, **options)
        ratios[shape] = _measure(shape, prior, ceilings, args)
    claimed = (device.type, args.dtype, args.responses, args.max_new_tokens)
    findings = [
        Finding.of_limits(f"step by its floor, {shape}", [ratio], below=MOST)
        for shape, ratio in ratios.items()
        if (*claimed, shape) == ("cuda", "bfloat16", 512, 40, "gpt2-small")
    ]
    return conclude(__doc__, [], findings)


def _measure(shape: str, prior: LanguageModel, ceilings: Ceilings, args: Roofline) -> float:
    """Print the phases of one shape, and return the ratio of the step."""
    device = torch.device(prior.device)
    prompt = " ".join(f"w{number}" for number in range(1, args.prompt_tokens + 1))
    prompts = prior.encode([prompt])
    guide = GUIDES[args.guide](prior, prompts)
    trained = 1.0 if args.guide == "fine-tuned" else 0.0
    sizes = (args.responses, args.prompt_tokens, args.max_new_tokens)
    work = Work.of(prior.network, *sizes, trained)
    floors = {
        "draw from the guide": work.decode(ceilings),
        "score under the prior": work.score(ceilings),
        "score under the guide, gradient": work.score_and_gradient(ceilings),
    }
    floors[STEP] = sum(floors.values())
    response = guide.distribution(prompts).sample((args.responses,))
    model = AlignmentModel(prior, cheap_reward, beta=1.0)
    step = SVIStep(model, guide, LeaveOneOut_ELBO(args.responses), prompts)

    def score() -> None:
        with torch.no_grad():
            prior(prompts).log_prob(response)

    def gradient() -> None:
        guide.distribution(prompts).log_prob(response).sum().backward()
        guide.zero_grad()

    def draw() -> Tensor:
        return guide.distribution(prompts).sample((args.responses,))

    phases: list[Callable[[], Any]] = [draw, score, gradient, step]
    num_tokens, rows = args.responses * args.max_new_tokens, {}
    for (phase, floor), run in zip(floors.items(), phases, strict=True):
        seconds = median_seconds(run, device, args.rounds)
        cells = (seconds * 1e3, floor * 1e3, seconds / floor, num_tokens / seconds)
        rows[phase] = [f"{cells[0]:.1f}", f"{cells[1]:.2f}", f"{cells[2]:.1f}", f"{cells[3]:,.0f}"]
    print(
        f"\n{args.guide} on {shape}, {'compiled' if args.compile else 'plain'} decode: "
        f"{args.responses} responses of {args.max_new_tokens} tokens\n{text_table(HEADER, rows)}"
    )
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    return seconds / floor


if __name__ == "__main__":
    run_script(main, Roofline)
