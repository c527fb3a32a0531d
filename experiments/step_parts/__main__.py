"""Cost of a step of SVI beside the sum of its parts, written by hand, in the same run.

Question: does a step cost more than the network's own work, one decode and two scorings?
Claim: a step takes at most 1.25 times the CPU time of a raw `generate`, one forward pass of the
prior, and one forward and backward pass of the guide together. With `--prior smollm2 --dtype
bfloat16` and LoRA a step fits into 3 GB, loading included.
Source: measured here.
Printed: CPU and wall seconds of the parts, their sum and the step, medians over rounds; the median
of the rounds' ratios; the peak memory of the process after loading, and after one step.

All work on the same numbers of sequences and tokens. `generate` runs the guide's network with a
cache to the last token. The passes of the parts read its responses, prompt and response in one,
without a cache. The step draws its own responses, stops when all have ended (their length is
printed), reads each prompt once for all its responses, and also runs the reward, the objective, the
optimiser and Pyro. A round is one of each, so that other load on the machine falls on all alike.

    python -m experiments.step_parts
    python -m experiments.step_parts --prior smollm2 --dtype bfloat16 --threads 2
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import pyro

from experiments.shared import argument_types as types
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.tables import text_table
from experiments.shared.training import build_guide
from experiments.step_parts.parts import STEP, SUM, Parts, new_step, time_parts
from inference.diagnostics.memory import peak_memory
from inference.diagnostics.timing import medians, ratio
from model.prior.named_priors import load_prior

CLOCKS = ("CPU", "wall")
MOST = 1.25
"""Largest ratio of the CPU time of a step to the sum of its parts, as claimed."""
MOST_MEMORY = 3.0
"""Largest peak of the memory of a step of SmolLM2 in bfloat16 with LoRA, GB, as claimed."""


@dataclass(frozen=True)
class StepParts(Arguments):
    """Time a step of SVI and its parts."""

    prior: types.Name = "film-reviews"
    """The prior, as in `experiments.steer`."""
    guide: Literal["lora", "fine-tuned"] = "lora"
    """The guide that trains; `generate` needs a Hugging Face network."""
    dtype: types.DtypeName = "float32"
    """Type of the prior's weights."""
    prompts: Annotated[tuple[str, ...], types.SOME] = ("The film was",)
    """Prompts of the responses."""
    particles: Annotated[int, types.count(2)] = 32
    """Number of responses to each prompt."""
    max_new_tokens: types.Length = 16
    """Number of tokens in a response."""
    beta: types.Positive = 0.1
    """Reward per nat; the reward is VADER's sentiment."""
    rounds: types.Count = 10
    """Number of timed steps, and of timed runs of each part."""
    warm_up: Annotated[int, types.count(0)] = 2
    """Number of rounds before the timed rounds."""
    threads: types.Threads = 1
    """Number of CPU threads."""


def main(args: StepParts) -> list[Finding]:
    """Print the costs, and return the findings."""
    pyro.set_rng_seed(0)
    with blamed(f"--prior {args.prior}", FAULTS):
        prior = load_prior(args.prior, max_new_tokens=args.max_new_tokens, dtype=args.dtype)
    with blamed("--prompts"):
        prompts = prior.encode(args.prompts)
    guide = build_guide(args.guide, {}, prior, prompts)
    step, lengths = new_step(prior, guide, prompts, args.beta, args.particles)
    loaded = peak_memory() / 1000
    step()
    stepped = peak_memory() / 1000  # before the parts, which take more
    parts = Parts(prior, guide, prompts, args.particles)
    times, num_decoded = time_parts(step, lengths, parts, args.warm_up, args.rounds)
    ratios = {clock: ratio(times[STEP], times[SUM], i) for i, clock in enumerate(CLOCKS)}
    rows = {name: medians(seconds, 3) for name, seconds in times.items()}
    rows["step / sum"] = [f"{value:.2f}" for value in ratios.values()]
    table = (
        f"{args.guide} on {args.prior} in {args.dtype}, {args.threads} thread(s): "
        f"{len(prompts) * args.particles} responses, seconds\n{text_table(CLOCKS, rows)}\n"
        f"tokens decoded: {args.max_new_tokens} by generate, {num_decoded:g} by the step (median)\n"
        f"peak memory: {loaded:.2f} GB with prior and guide loaded, {stepped:.2f} GB after a step"
    )
    subject = f"CPU time of a step over the sum of its parts, rounds: {args.rounds}"
    findings = [Finding.of_limits(subject, [ratios["CPU"]], below=MOST)]
    if (args.prior, args.dtype, args.guide) == ("smollm2", "bfloat16", "lora"):
        findings.append(Finding.of_limits("peak memory, GB", [stepped], below=MOST_MEMORY))
    return conclude(__doc__, [table], findings)


if __name__ == "__main__":
    run_script(main, StepParts)
