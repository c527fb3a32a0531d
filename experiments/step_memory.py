"""Memory of a step of SVI against the number of particles, with and without micro-batches.

Question: does the memory of a step grow with the number of responses?
Claim: with `micro_batch` the peak stays the same from 8 micro-batches on, since draws and scores
take a chunk of the responses at a time, and activations are those of one micro-batch. Without, the
peak grows with every response.
Source: measured here.
Printed: peak of the resident memory of a process that does two steps and nothing else, the weights
and Python included, in MB, and CPU seconds of the second step; the growth of the peak with the
number of responses, where a tenth counts as growth. Networks so small that a process without a step
has most of the memory show no growth.

    python -m experiments.step_memory
    python -m experiments.step_memory --prior smollm2 --dtype bfloat16 --max-new-tokens 256 \
        --particles 32 --micro-batches 4
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch

from experiments.shared.argument_types import DISTINCT, DtypeName, Length, Name, count
from experiments.shared.claims import Finding, conclude, within
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.cost import cheap_reward, forget_peak, peak_memory
from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.tables import text_table
from experiments.shared.workers import run_all
from guides import LoRA
from inference import LeaveOneOut_ELBO, fit
from inference.svi.response_metrics import Metrics
from model import AlignmentModel, LanguageModel
from model.common.devices import named_dtype
from model.prior.named_priors import load_prior

SAME = 0.1
"""Growth of the peak that counts as none, as a share."""


@dataclass(frozen=True)
class StepMemory(Arguments):
    """Measure the memory of a step."""

    prior: Name = "film-reviews"
    """Prior: `film-reviews`, `smollm2`, or a folder in Hugging Face format."""
    dtype: DtypeName = "float32"
    """Dtype of the prior's weights. The guide is LoRA, with adapters in float32."""
    max_new_tokens: Length = 64
    """T, number of tokens of a response: no response ends before."""
    particles: Annotated[tuple[Annotated[int, count(2)], ...], DISTINCT] = (64, 256, 1024)
    """Numbers of responses in a step."""
    micro_batches: Annotated[tuple[Annotated[int, count(0)], ...], DISTINCT] = (0, 8)
    """Largest numbers of responses that are differentiated at a time; 0 for all responses."""


class Job(NamedTuple):
    """One measurement."""

    args: StepMemory
    particles: int
    micro_batch: int


def main(args: StepMemory) -> list[Finding]:
    """Print the peaks, MB, and return the findings on their growth."""
    jobs = [Job(args, k, m) for m in args.micro_batches for k in args.particles]
    peaks, rows = {}, {}
    for job in jobs:
        [(peak, seconds)] = run_all(measure, [job], workers=2)  # a new process for each
        peaks[job.particles, job.micro_batch] = peak
        how = f"{job.micro_batch} at a time" if job.micro_batch else "whole"
        name = f"{job.particles} responses, {how}"
        rows[name] = [f"{peak:.0f}", f"{seconds:.2f}"]
        print(f"{name}: {peak:.0f} MB, {seconds:.2f} CPU s", flush=True)
    findings = []
    for size in args.micro_batches:
        few, many = min(args.particles), max(args.particles)
        if size:  # from 8 micro-batches on
            few = min((k for k in args.particles if k >= 8 * size), default=many)
        if few == many:
            continue
        how = f"{size} at a time" if size else "whole"
        growth = peaks[many, size] / peaks[few, size] - 1
        limits = {"below": SAME} if size else {"above": SAME}
        subject = f"{how}, growth of the peak from {few} to {many} responses, as a share"
        findings.append(within(subject, growth, **limits))
    return conclude(__doc__, [text_table(["peak, MB", "CPU s"], rows)], findings)


def measure(job: Job) -> tuple[float, float]:
    """Peak of this process in two steps, MB, and CPU seconds of the second."""
    args = job.args
    options: dict[str, Any] = {"dtype": named_dtype(args.dtype), "end_ids": [0]}
    with blamed(f"--prior {args.prior}", FAULTS):
        prior = load_prior(args.prior, max_new_tokens=args.max_new_tokens, **options)
    forbid_end(prior)
    model = AlignmentModel(prior, cheap_reward, beta=1.0)
    with blamed(f"--max-new-tokens {args.max_new_tokens}"):
        prompts = prior.encode(["The film was"])
    guide = LoRA(prior)
    times: list[float] = []

    def on_step(_: Metrics) -> None:
        times.append(time.process_time())

    forget_peak()
    how: dict[str, Any] = {"micro_batch": job.micro_batch or None, "progress": False}
    objective = LeaveOneOut_ELBO(job.particles)
    fit(model, guide, prompts, num_steps=2, objective=objective, on_step=on_step, **how)
    return peak_memory(), times[1] - times[0]


def forbid_end(prior: LanguageModel) -> None:
    """Let no response end, so that all have T tokens: its logits are moved out of reach."""

    def lowered(_: torch.nn.Module, __: tuple, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(prior.end_ids), -1e4)

    prior.network.get_output_embeddings().register_forward_hook(lowered)


if __name__ == "__main__":
    run_script(main, StepMemory)
