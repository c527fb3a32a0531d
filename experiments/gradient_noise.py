"""Noise of token-level gradients against leave-one-out.

Reward-to-go and the analytic KL leave out of each token's credit the terms that the token cannot
have caused.

Claim: the noise depends on the guide. At the posterior the terms left out are those that make
log w equal for all responses: the leave-one-out gradient is 0 on every sample, the token-level
gradients are not. Away from the posterior, the token-level gradients can have less noise.
Source: derived and measured here.
Printed: the noise of each gradient, a sum of variances over all parameters with its standard error,
for several lengths of the responses, with the guide at the prior, away from prior and posterior,
and at the posterior.

The posterior is known exactly on a real language model: the reward is log p*(x) - log p0(x), for a
p* that is the prior with noise on its weights, so log Z = 0.

    python -m experiments.gradient_noise
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pyro.infer import ELBO
from torch import Tensor

from experiments.shared.argument_types import DISTINCT, Seed, count, multiple, number
from experiments.shared.claims import ClaimArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.gradients import loss_gradient, moved_guide
from experiments.shared.tables import table_of
from guides import FineTuned
from inference import Estimate, LeaveOneOut_ELBO, RewardToGo_ELBO, random_state
from inference.objectives import AnalyticKL_ELBO
from model import AlignmentModel, LanguageModel, Prompts, Reward
from model.prior.named_priors import load_prior

OBJECTIVES: dict[str, Callable[[int], ELBO]] = {
    "leave-one-out": LeaveOneOut_ELBO,
    "reward-to-go": RewardToGo_ELBO,
    "analytic-kl": AnalyticKL_ELBO,
}


@dataclass(frozen=True)
class GradientNoise(ClaimArguments):
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
    gradients: Annotated[int, count(4), multiple(2)] = 16
    """Number of gradients in each variance, an even number: each pair makes an estimate."""
    seed: Seed = 0
    """Random seed."""


def main(args: GradientNoise) -> list[Finding]:
    """Print the sums of variances by place of the guide and by objective, and return findings."""
    noise: dict[str, dict[str, Estimate]] = {}
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
                        loss_gradient(objective(args.particles), model, guide, prompts)
                        for _ in range(args.gradients)
                    )
                    row[name] = sum_of_variances(gradients)
    table = table_of("Noise of the gradient, sum of variances", noise)
    return conclude(__doc__, [table], list_findings(noise))


def list_findings(noise: Mapping[str, Mapping[str, Estimate]]) -> list[Finding]:
    """Findings at the posterior, and on the place where a token-level gradient gains the most."""
    at = [row for place, row in noise.items() if place.startswith("posterior")]
    away = [row for place, row in noise.items() if not place.startswith("posterior")]
    baseline, *token_level = OBJECTIVES
    ratios = [row[baseline].value / row[name].value for row in at for name in token_level]
    differences = [row[baseline].minus(row[name]) for row in away for name in token_level]
    gain = max(difference.value / difference.standard_error for difference in differences)
    subject = f"noise of {baseline} at the posterior, by that of"
    return [
        within(f"{subject} {' and '.join(token_level)}", *ratios, below=1e-4),
        within("largest gain away from the posterior, standard errors", gain, above=3),
    ]


def log_ratio(posterior: FineTuned, prior: LanguageModel) -> Reward:
    """The reward log p*(x) - log p0(x), whose posterior at beta 1 is `posterior`."""

    @torch.no_grad()
    def reward(prompts: Prompts, response: Tensor) -> Tensor:
        log_posterior = posterior.distribution(prompts).log_prob(response)
        return log_posterior - prior(prompts).log_prob(response)

    return reward


def sum_of_variances(gradients: Iterator[Tensor]) -> Estimate:
    """Unbiased estimate of E ||g - E g||^2: half the squared distance of independent pairs."""
    pairs = zip(gradients, gradients, strict=True)
    halves = [(left - right).square().sum().double() / 2 for left, right in pairs]
    return Estimate.of_mean(torch.stack(halves)[:, None])


if __name__ == "__main__":
    run_script(main, GradientNoise)
