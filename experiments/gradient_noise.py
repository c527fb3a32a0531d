"""Noise of token-level gradients against leave-one-out.

Reward-to-go and the analytic KL leave out of each token's credit the terms that the token cannot
have caused.

Claim: the noise depends on the guide. At the posterior the terms left out are those that make
log w equal for all responses: the leave-one-out gradient is 0 on every sample, the token-level
gradients are not. Away from the posterior, the token-level gradients can have less noise.
Source: derived and measured here.
Printed: the noise of each gradient, a sum of variances over all parameters, for several lengths
of the responses, with the guide at the prior, away from prior and posterior, and at the posterior.

The posterior is known exactly on a real language model: the reward is log p*(x) - log p0(x), for a
p* that is the prior with noise on its weights, so log Z = 0.

    python -m experiments.gradient_noise
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.argument_types import DISTINCT, Seed, Threads, count, number
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import pair_table
from guides import FineTuned
from inference import LeaveOneOut_ELBO, RewardToGo_ELBO, random_state
from inference.diagnostics.gradients import elbo_gradient, moved_guide
from inference.objectives import AnalyticKL_ELBO
from model import AlignmentModel, LanguageModel, Prompts, Reward
from model.prior.named_priors import load_prior

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
    """Largest numbers of tokens in a response, T."""
    distance: Annotated[
        float, number(above=0, at_most=10, why="the weights would be nothing but noise")
    ] = 0.01
    """Standard deviation of the noise that moves the guide's weights away from the prior's."""
    particles: Annotated[int, count(2)] = 16
    """Number of responses in each gradient, K."""
    gradients: Annotated[int, count(2)] = 12
    """Number of gradients in each variance."""
    threads: Threads | None = None
    """Number of CPU threads; default: torch's choice."""
    seed: Seed = 0
    """Random seed."""


def main(args: GradientNoise) -> dict[str, dict[str, float]]:
    """Print the sums of variances, and return them by place of the guide and by objective."""
    noise: dict[str, dict[str, float]] = {}
    for length in args.lengths:
        prior = load_prior("film-reviews", max_new_tokens=length)
        prompts = prior.encode(["The film was"])
        with random_state.isolated(args.seed):
            posterior, away = moved_guide(prior, args.distance), moved_guide(prior, args.distance)
            model = AlignmentModel(prior, log_ratio(posterior, prior), beta=1.0)
            guides = {"prior": moved_guide(prior, 0.0), "away": away, "posterior": posterior}
            for place, guide in guides.items():
                row = noise[f"{place}, T = {length}"] = {}
                for name, objective in OBJECTIVES.items():
                    gradients = (
                        elbo_gradient(objective(args.particles), model, guide, prompts)
                        for _ in range(args.gradients)
                    )
                    row[name] = sum_of_variances(gradients)
    rows = {
        place: [(name, f"{value:.3g}") for name, value in row.items()]
        for place, row in noise.items()
    }
    print(pair_table("Noise of the gradient, sum of variances", rows))
    return noise


def log_ratio(posterior: FineTuned, prior: LanguageModel) -> Reward:
    """The reward log p*(x) - log p0(x), whose posterior at beta 1 is `posterior`."""

    @torch.no_grad()
    def reward(prompts: Prompts, response: Tensor) -> Tensor:
        log_posterior = posterior.distribution(prompts).log_prob(response)
        return log_posterior - prior(prompts).log_prob(response)

    return reward


def sum_of_variances(gradients: Iterable[Tensor]) -> float:
    """Unbiased estimate of E ||g - E g||^2 from independent gradients."""
    number, squares, total = 0, torch.zeros(()), torch.zeros(())
    for gradient in gradients:
        number, squares, total = number + 1, squares + gradient.square().sum(), total + gradient
    return ((squares - total.square().sum() / number) / (number - 1)).item()


if __name__ == "__main__":
    run_script(main, GradientNoise)
