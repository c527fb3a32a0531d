"""Marginal likelihood of an uncertain reward: the weights w of the reward are integrated out.

    log f(x) = log E_w[exp(r_w(x)/beta)], estimated by log mean_s exp(r_s(x)/beta), s = 1 .. S

For Gaussian r(x) with mean m and variance v, beta log f is m + v/(2 beta): a bonus for
uncertainty, the opposite of the conservative ensembles of Coste et al. 2023 (arXiv 2310.02743).
With S draws the bonus is too small where v/beta^2 exceeds about 2 log S, since log f is at most
the log factor of the largest draw.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from model.common.checks import function, positive
from model.likelihood import check_product
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts
from model.rewards.text import TextReward

MARGINAL = "marginal-likelihood"


def log_marginal_likelihood(rewards: Tensor, beta: float) -> Tensor:
    """log mean_s exp(r_s/beta), `[S, M]` -> `[M]`, nats.

    Depends on the reference point of the rewards, see `model.preferences.StandardisedFeatures`.
    """
    rewards = rewards.double()
    scaled = check_product("rewards", rewards, rewards / beta, "divided by beta")
    return scaled.logsumexp(0) - math.log(len(rewards))


class MarginalLikelihood:
    """The factor log f(x) = log mean_s exp(r_s(x)/beta), nats.

    Args:
        posterior: posterior of the reward; takes M texts, returns the rewards `[S, M]` of S draws.
        language_model: decodes the responses.
        beta: reward per nat of the model.
    """

    unit: ClassVar = "nat"

    def __init__(
        self, posterior: Callable[..., Tensor], language_model: LanguageModel, beta: float
    ) -> None:
        self.posterior = function("posterior", posterior, why="a `RewardPosterior`")
        self.beta = positive("beta", beta)
        # preferences are read as whole texts, chats too
        self._text_factor = TextReward(self._log_mean, language_model, whole=True, name=MARGINAL)

    def _log_mean(self, texts: Sequence[str]) -> list[float]:
        return log_marginal_likelihood(self.posterior(texts), self.beta).tolist()

    def components(self) -> list[TextReward]:
        """The same factor as a function of texts, with the language model."""
        return [self._text_factor]

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """log f of responses `[..., N, T]`, `[..., N]`, nats, float64."""
        return self._text_factor(prompts, response)
