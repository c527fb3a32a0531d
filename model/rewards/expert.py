"""Log-likelihood under another language model as a reward: a product of experts (Hinton 2002)."""

import torch
from torch import Tensor

from model.common.checks import instance
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class Expert:
    """r(x) = log p_e(x | prompt) under a second causal language model, nats, token for token.

    With a weight w in a `WeightedSum` the posterior is p0(x) p_e(x)^(w/beta) / Z. A negative weight
    steers away from the other model, an anti-expert (Liu et al. 2021, arXiv 2105.03023).

    Args:
        language_model: p_e, on any device and of any type.
        prior: p0.

    Raises:
        ValueError: if the two models have different responses: vocabulary, end ids or length.
    """

    upper_bound = 0.0

    def __init__(self, language_model: LanguageModel, prior: LanguageModel) -> None:
        for name, value in {"language_model": language_model, "prior": prior}.items():
            instance(name, value, LanguageModel, why="`LanguageModel.from_pretrained` loads one")
        prior.check_same_responses("the expert", language_model, "Use `TextLikelihood`")
        self.language_model = language_model

    @torch.no_grad()
    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Log-likelihood of responses `[..., N, T]`, `[..., N]`, nats."""
        device = self.language_model.device
        distribution = self.language_model(prompts.to(device))
        return distribution.log_prob(response.to(device)).to(response.device)
