"""The phases of a step as this library runs them."""

import torch
from torch import Tensor

from experiments.shared.cost import Step
from guides import FineTuned, LoRA
from model import LanguageModel, Prompts


def phases(
    prior: LanguageModel, guide: LoRA | FineTuned, prompts: Prompts, num_responses: int
) -> dict[str, Step]:
    """Draw, score under the prior, and score under the guide with gradient, by name."""
    response = guide.distribution(prompts).sample((num_responses,))

    def score() -> None:
        with torch.no_grad():
            prior(prompts).log_prob(response)

    def gradient() -> None:
        guide.distribution(prompts).log_prob(response).sum().backward()
        guide.zero_grad()

    def draw() -> Tensor:
        return guide.distribution(prompts).sample((num_responses,))

    return {
        "draw from the guide": draw,
        "score under the prior": score,
        "score under the guide, gradient": gradient,
    }
