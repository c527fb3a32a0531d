"""When do token-level gradients win, and when does leave-one-out?

Question: reward-to-go and the analytic KL leave out of each token's credit what it cannot have caused. Is less noise left?
Claim: it depends on where the guide is. At the posterior what they leave out is what makes log w the same for every response:
the leave-one-out gradient is 0 on every sample there, and theirs are not. Away from it theirs can have less noise.
Printed: the noise of each gradient, the sum of variances over all parameters, at several lengths of responses and three places:
with the guide at the prior, at the posterior, and moved away from both.

The posterior is known exactly, on a real language model: evidence is log p*(x) - log p0(x) for a p* that is the prior with
noise on its weights, so that log Z = 0.

    python -m experiments.gradient_noise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.arguments import DISTINCT, Arguments, Seed, Threads, count, number
from experiments.shared.command_line import run_script
from experiments.shared.priors import load_prior, set_threads
from experiments.shared.worlds import moved_guide
from guides import FineTuned
from inference import LeaveOneOut_ELBO, Program, RewardToGo_ELBO, random_state
from inference.objectives import AnalyticKL_ELBO
from inference.programs import parameter_scope
from model import AlignmentModel, LanguageModel, Prompts, Reward

OBJECTIVES: dict[str, Callable[[int], ELBO]] = {
    "leave-one-out": LeaveOneOut_ELBO,
    "reward-to-go": RewardToGo_ELBO,
    "analytic-kl": AnalyticKL_ELBO,
}


@dataclass(frozen=True)
class GradientNoise(Arguments):
    """Compare the noise of three gradients of one ELBO."""

    lengths: Annotated[
        tuple[Annotated[int, count(1, 100, "the prior reads 128 tokens")], ...], DISTINCT
    ] = (4, 16)
    """T, tokens of a response."""
    distance: Annotated[
        float, number(above=0, at_most=10, why="the weights would be nothing but noise")
    ] = 0.01
    """Standard deviation of the noise that moves the guide's weights away from the prior's."""
    particles: Annotated[int, count(2)] = 16
    """K, responses behind each gradient."""
    gradients: Annotated[int, count(2)] = 12
    """Gradients behind each variance."""
    threads: Threads | None = None
    """CPU threads; default torch's choice."""
    seed: Seed = 0
    """Of every random number."""


def main(args: GradientNoise) -> dict[str, dict[str, float]]:
    """Returns by place, and by objective there, the sum of variances."""
    set_threads(args.threads)
    noise = {}
    for length in args.lengths:
        prior = load_prior(
            "film-reviews", max_new_tokens=length, temperature=1.0, dtype="float32", device="cpu"
        )
        prompts = prior.encode(["The film was"])
        with random_state.isolated(args.seed):
            posterior, away = moved_guide(prior, args.distance), moved_guide(prior, args.distance)
            model = AlignmentModel(prior, log_ratio(posterior, prior), beta=1.0)
            for place, guide in {
                "prior": moved_guide(prior, 0.0),
                "away": away,
                "posterior": posterior,
            }.items():
                row = {
                    name: variance(make, model, guide, prompts, args)
                    for name, make in OBJECTIVES.items()
                }
                noise[f"{place}, T = {length}"] = row
    width = max(map(len, noise))
    print(f"{'sum of variances':{width}}" + "".join(f"{name:>16}" for name in OBJECTIVES))
    for place, row in noise.items():
        print(f"{place:{width}}" + "".join(f"{value:16.3g}" for value in row.values()))
    return noise


def log_ratio(posterior: FineTuned, prior: LanguageModel) -> Reward:
    """Evidence that makes `posterior` the posterior of `prior` at beta 1."""

    @torch.no_grad()
    def reward(prompts: Prompts, response: Tensor) -> Tensor:
        return posterior.distribution(prompts).log_prob(response) - prior(prompts).log_prob(
            response
        )

    return reward


def variance(
    make: Callable[[int], ELBO],
    model: Program,
    guide: FineTuned,
    prompts: Prompts,
    args: GradientNoise,
) -> float:
    """E ||g - E g||^2 over independent gradients."""
    total: Tensor = torch.zeros(())
    squares = torch.zeros(())
    for _ in range(args.gradients):
        guide.zero_grad()
        with parameter_scope(guide):
            make(args.particles).loss_and_grads(model, guide, prompts)
        gradient = torch.cat(
            [
                parameter.grad.flatten()
                for parameter in guide.parameters()
                if parameter.grad is not None
            ]
        )
        total, squares = total + gradient, squares + gradient.square().sum()
    mean_square = (total / args.gradients).square().sum()
    return ((squares / args.gradients - mean_square) * args.gradients / (args.gradients - 1)).item()


if __name__ == "__main__":
    run_script(main, GradientNoise)
