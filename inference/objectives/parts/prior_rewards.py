"""Log likelihoods of prior draws, drawn once for each prompt, for objectives that read the prior.

log Z_hat = log 1/M sum_m exp(l_m),   F(l) = P(l(y) <= l),   F-(l) = P(l(y) < l),   y ~ p0
"""

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.prior_sample import sample_prior
from inference.programs import Program
from model import Prompts
from model.common.checks import whole_number


class PriorRewards:
    """Sorted log likelihoods of M prior draws to each prompt that came up so far.

    Args:
        num_draws: M, number of draws, in the first step with a prompt.
        purpose: use of the draws for learning, see `PriorSample.spend`.
    """

    def __init__(self, num_draws: int, purpose: str) -> None:
        self.num_draws = whole_number("num_prior_draws", num_draws)
        self._purpose = purpose
        self._sorted: dict[str, Tensor] = {}  # [M], nats, by prompt

    def meet(self, model: Program, prompts: Prompts) -> None:
        """Draw from the prior for all prompts that are new."""
        names = prompts.names()
        new = [i for i, name in enumerate(names) if name not in self._sorted]
        if new:
            problem = model, prompts[new], self.num_draws
            draws = sample_prior(*problem, independent=True, purpose=self._purpose)
            for i, column in zip(new, draws.log_likelihood.double().T, strict=True):
                self._sorted[names[i]] = column.sort().values

    def log_z(self, prompts: Prompts) -> Tensor:
        """log Z_hat, `[N]`, nats. exp of the estimate is unbiased for Z; log Z is biased low."""
        return torch.stack([log_mean(self._sorted[name]) for name in prompts.names()])

    def cdf(self, prompts: Prompts, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
        """F and F- of log likelihoods `[..., N]`, in the same shape.

        The response is ranked among the draws and itself, so that neither F nor a tie is 0.
        """
        ranks = []
        for name, value in zip(prompts.names(), log_likelihood.unbind(-1), strict=True):
            known, value = self._sorted[name], value.contiguous()
            below = torch.searchsorted(known, value)
            upto = torch.searchsorted(known, value, right=True)
            ranks.append(torch.stack([upto + 1, below]).double() / (len(known) + 1))
        cdf, cdf_left = torch.stack(ranks, -1)
        return cdf, cdf_left

    def get_state(self) -> dict[str, Tensor]:
        """Log likelihoods of each prompt, for checkpoints."""
        return dict(self._sorted)

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._sorted = dict(state)
