"""What a step of SVI costs beside the sum of its parts, each written by hand with torch and transformers, in the same run.

Question: is a step more than the network's own work, one decode and two scorings?
Claim: at most 1.25 times the sum of a raw `generate`, one forward pass of the prior, and one forward and backward pass of the
guide. With `--prior smollm2 --dtype bfloat16` and LoRA it fits into 3 GB, loading included.
Printed: CPU and wall seconds of the parts, their sum and the step, medians over rounds; the median of the rounds' ratios; the
most memory the process has had after loading, and after one step.

All work on as many sequences and tokens. `generate` is of the guide's network, draws with a cache, and is made to go on to the
last token; the passes of the parts are over its responses, prompt and response in one, without a cache. The step draws
responses of its own, stops when all have ended (how far they went is printed), reads each prompt once for all its responses,
and also runs the reward, the objective, the optimiser and Pyro. A round is one of each, so that what else the machine does
falls on all alike.

    python -m experiments.step_parts
    python -m experiments.step_parts --prior smollm2 --dtype bfloat16 --threads 2
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import pyro
import torch
from pyro.infer import SVI
from pyro.params.param_store import StateDict
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from experiments.benchmark import Seconds, ratio, take_turns
from experiments.shared.argument_types import (
    SOME,
    Count,
    DtypeName,
    GuideName,
    Length,
    Name,
    Positive,
    Threads,
    count,
)
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.saved_guide import build_guide
from guides import GUIDES, Guide
from inference import FusedOptimizer, LeaveOneOut_ELBO, response_distribution
from model import AlignmentModel, LanguageModel, Prompts, ResponseDistribution
from model.prior.named_priors import load_prior
from model.registry import REWARDS

GENERATE, PRIOR, GUIDE, SUM, STEP = (
    "raw generate",
    "prior, forward",
    "guide, forward and backward",
    "sum",
    "SVI.step",
)
CLOCKS = ("CPU", "wall")


@dataclass(frozen=True)
class StepParts(Arguments):
    """Time a step of SVI and its parts."""

    prior: Name = "film-reviews"
    """As in `experiments.steer`."""
    guide: GuideName = "lora"
    """One whose distribution is a Hugging Face network's."""
    dtype: DtypeName = "float32"
    """Of the prior's weights."""
    prompts: Annotated[tuple[str, ...], SOME] = ("The film was",)
    """What the responses continue."""
    particles: Annotated[int, count(2)] = 32
    """Responses to each prompt."""
    max_new_tokens: Length = 16
    """Tokens of a response."""
    beta: Positive = 0.1
    """Reward per nat; the reward is the sentiment that VADER sees."""
    rounds: Count = 10
    """Steps timed, and each part as often."""
    warm_up: Annotated[int, count(0)] = 2
    """Rounds before those."""
    threads: Threads = 1
    """CPU threads."""


class Step:
    """A step of SVI, in a scope of Pyro's store of its own. The rate is so low that the job stays the same."""

    def __init__(
        self, args: StepParts, prior: LanguageModel, guide: Guide, prompts: Prompts
    ) -> None:
        model = AlignmentModel(prior, REWARDS["vader"](prior), args.beta)
        objective = LeaveOneOut_ELBO(num_particles=args.particles)
        self.svi = SVI(model, self.watched, FusedOptimizer(options={"lr": 1e-9}), objective)
        self.guide, self.prompts, self.space = guide, prompts, prior.space
        self.scope: StateDict = {"params": {}, "constraints": {}}
        self.lengths: list[int] = []

    def __call__(self) -> None:
        with pyro.get_param_store().scope(self.scope):
            self.svi.step(self.prompts)

    def watched(self, prompts: Prompts) -> Tensor:
        """The guide, whose longest response is noted: so many tokens it decoded."""
        response = self.guide(prompts)
        self.lengths.append(int(self.space.is_token(response).sum(-1).max()))
        return response


class Parts:
    """What a step consists of, by hand."""

    def __init__(
        self, args: StepParts, prior: LanguageModel, guide: Guide, prompts: Prompts
    ) -> None:
        self.num_tokens, self.end_ids, self.pad_id = (
            args.max_new_tokens,
            list(prior.end_ids),
            prior.pad_id,
        )
        self.prior, self.guide = prior.network, network_of(guide, prompts)
        self.trained = list(guide.trained().values())
        self.ids, self.mask = (
            tensor.repeat(args.particles, 1) for tensor in (prompts.ids, prompts.mask.long())
        )
        self.response = self.generate()

    def generate(self) -> Tensor:
        """Responses `[B, T]`, none of which ends before T."""
        with contiguous_states(self.guide):
            ids = self.guide.generate(
                input_ids=self.ids,
                attention_mask=self.mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=self.num_tokens,
                max_new_tokens=self.num_tokens,
                eos_token_id=self.end_ids,
                pad_token_id=self.pad_id,
            )
        return ids[:, self.ids.shape[1] :]

    def log_prob(self, network: PreTrainedModel) -> Tensor:
        """log p(response), nats, `[B]`."""
        mask = torch.nn.functional.pad(self.mask, (0, self.num_tokens - 1), value=1)
        with contiguous_states(network):
            logits = network(
                input_ids=torch.cat([self.ids, self.response[:, :-1]], 1),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=self.num_tokens,
            ).logits
        nats = cross_entropy(
            logits.flatten(0, 1).float(), self.response.flatten(), reduction="none"
        )
        return -nats.view(self.response.shape).sum(1)

    @torch.no_grad()
    def score(self) -> None:
        self.log_prob(self.prior)

    def score_and_go_back(self) -> None:
        self.log_prob(self.guide).mean().backward()
        for parameter in self.trained:
            parameter.grad = None


@contextmanager
def contiguous_states(network: PreTrainedModel) -> Iterator[None]:
    """Hand the output layer contiguous states. Where only the last are kept they are not, and then torch, multiplying by frozen
    weights, copies the whole layer once for each sequence: many times the pass's own cost, in time and in memory."""
    layer = network.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def network_of(guide: Guide, prompts: Prompts) -> PreTrainedModel:
    """The Hugging Face network that a guide samples from."""
    distribution = response_distribution(guide, prompts)
    if not isinstance(distribution, ResponseDistribution) or not isinstance(
        distribution.decoder, LanguageModel
    ):
        raise SystemExit(
            f"--guide: {type(guide).__name__} is not a Hugging Face network alone, which is what `generate` takes"
        )
    return distribution.decoder.network


def peak_memory() -> float:
    """The most memory that this process has had so far, GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def with_sum(times: dict[str, list[Seconds]]) -> dict[str, list[Seconds]]:
    """With the sum of the parts in each round, after them."""
    parts = [times[name] for name in (GENERATE, PRIOR, GUIDE)]
    total = [
        (sum(cpu), sum(wall))
        for cpu, wall in (zip(*of_round, strict=True) for of_round in zip(*parts, strict=True))
    ]
    return {GENERATE: parts[0], PRIOR: parts[1], GUIDE: parts[2], SUM: total, STEP: times[STEP]}


def main(args: StepParts) -> dict[str, float]:
    """Returns the step's cost as a multiple of the sum of its parts, by clock."""
    if not GUIDES[args.guide].trains:
        raise SystemExit(
            f"--guide {args.guide} has nothing to train, and a step of it nothing to time"
        )
    torch.set_num_threads(args.threads)
    pyro.set_rng_seed(0)
    with blamed(f"--prior {args.prior}", FAULTS):
        prior = load_prior(
            args.prior,
            max_new_tokens=args.max_new_tokens,
            temperature=1.0,
            dtype=args.dtype,
            device="cpu",
        )
    with blamed("--prompts"):
        prompts = prior.encode(args.prompts)
    guide = build_guide(args.guide, {}, prior, prompts)
    step = Step(args, prior, guide, prompts)
    loaded = peak_memory()
    step()
    stepped = peak_memory()  # before the parts, which take more
    parts = Parts(args, prior, guide, prompts)
    turns: dict[str, Callable[[], object]] = {
        GENERATE: parts.generate,
        PRIOR: parts.score,
        GUIDE: parts.score_and_go_back,
        STEP: step,
    }
    take_turns(turns, args.warm_up)
    step.lengths.clear()
    times = with_sum(take_turns(turns, args.rounds))
    ratios = {clock: ratio(times[STEP], times[SUM], i) for i, clock in enumerate(CLOCKS)}

    print(
        f"{args.guide} on {args.prior} in {args.dtype}, {args.threads} thread(s): {len(parts.ids)} responses, seconds"
    )
    print(f"{'':30}" + "".join(f"{clock:>8}" for clock in CLOCKS))
    for name, seconds in times.items():
        print(
            f"{name:30}"
            + "".join(f"{statistics.median(s[i] for s in seconds):8.3f}" for i in range(2))
        )
    print(f"{'step / sum':30}" + "".join(f"{ratios[clock]:8.2f}" for clock in CLOCKS))
    print(
        f"tokens decoded: {args.max_new_tokens} by generate, {statistics.median(step.lengths):g} by the step (median)"
    )
    print(
        f"peak memory: {loaded:.2f} GB when prior and guide are loaded, {stepped:.2f} GB after a step"
    )
    return ratios


if __name__ == "__main__":
    run_script(main, StepParts)
