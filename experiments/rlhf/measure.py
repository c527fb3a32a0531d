"""Measurement of a guide tuned on a learned reward, beside the prior and the posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from experiments.rlhf.sweep import sweep
from experiments.rlhf.text_sample import Gold, TextSample
from experiments.shared.tables import text_table
from guides import Guide
from inference import (
    Estimate,
    diagnose,
    response_distribution,
)
from model import AlignmentModel, LanguageModel, Prompts
from model.preferences import AGGREGATIONS, RewardPosterior, uncertain_model


@dataclass(frozen=True)
class Proxy:
    """An uncertain reward with the way to use it.

    Attributes:
        posterior: posterior of the reward.
        aggregation: a name in `AGGREGATIONS`.
        beta: reward per nat.
    """

    posterior: RewardPosterior
    aggregation: str
    beta: float

    def model(self, prior: LanguageModel) -> AlignmentModel:
        """The model whose likelihood is this reward."""
        return uncertain_model(prior, self.posterior, self.aggregation, self.beta)

    def __call__(self, texts: list[str]) -> Tensor:
        """Rewards `[M]` of M texts: beta times the log likelihood."""
        aggregate = AGGREGATIONS[self.aggregation]
        return self.beta * aggregate(self.posterior(texts).cpu(), self.beta)


def measure(
    proxy: Proxy,
    prior: LanguageModel,
    prompts: Prompts,
    guide: Guide,
    num_samples: int,
    gold: Gold | None = None,
    sample: TextSample | None = None,
) -> str:
    """Table of rewards and KL: prior, guide, and the posterior if there is a sample for it."""

    def rewards(distribution: TorchDistribution) -> list[str]:
        response = distribution.sample(torch.Size([num_samples]))
        texts = [text for row in prior.decode(response, prompts) for text in row]
        scores = [score(texts) for score in (proxy, gold) if score is not None]
        return [str(Estimate.of_mean(score.view(num_samples, -1))) for score in scores]

    proxy_reward, *gold_reward = rewards(prior(prompts))
    rows = {"prior": [proxy_reward, "0", *gold_reward]}
    proxy_reward, *gold_reward = rewards(response_distribution(guide, prompts))
    diagnostics = diagnose(
        proxy.model(prior), guide, prompts, num_samples=num_samples, num_prior_draws=num_samples
    )
    rows["guide"] = [proxy_reward, str(diagnostics.kl_guide_prior), *gold_reward]
    if sample is not None:
        rows |= posterior_row(proxy, sample)
    return text_table(
        ["proxy reward", "KL to the prior", *["gold reward"] * (gold is not None)], rows
    )


def posterior_row(proxy: Proxy, sample: TextSample) -> dict[str, list[str]]:
    """Table row of the posterior itself, from a weighted sample of the prior."""
    rewards, betas = proxy.posterior(sample.texts), torch.tensor([proxy.beta])
    curve = sweep(sample, rewards, AGGREGATIONS[proxy.aggregation], betas, min_effective=0)
    values = [f"{value.item():.3f}" for value in (curve.proxy, curve.kl, curve.gold)]
    return {f"posterior, from draws worth {curve.effective_sample_size.item():.0f}": values}
