"""Best-of-n distillation: the guide learns the law of the best of n prior draws, so that one draw does for n.

    pi_n(x) = p0(x) (F(r)^n - F-(r)^n) / (F(r) - F-(r)),    F(r) = P(r(y) <= r),  F-(r) = P(r(y) < r),  y ~ p0
    loss    = E_q[log q(x) - log pi_n(x)] = KL(q || pi_n)

Variational best-of-n (Amini et al. 2024, arXiv 2407.06057), with ties counted right. It is the same inference for another
target: evidence is log pi_n/p0, a function of the reward's rank alone, so that beta and the reward's scale play no part. The
gradient is the leave-one-out one.

F is the distribution function of draws from the prior, made once for each prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.order_statistics import best_of_n_log_ratio
from inference.prior_sample import sample_prior
from inference.programs import Program
from model import Prompts
from model.common.checks import whole_number


class BestOfN_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """KL(q || best of n). Unbiased given F, an empirical one: the target is consistent in `num_prior_draws`.

    Bears evidence of -inf, which is the lowest rank and not impossible; the ELBO among the metrics, that of the model's own
    posterior, is -inf then.

    Args:
        num_particles: K, at least 2.
        n: of which the best is taken; it is as far from the prior as log n - (n - 1)/n nats, or less where rewards tie.
        num_prior_draws: behind F, for each prompt, in the step that meets it first.
    """

    supports_hard_constraints = True
    min_particles, why_particles = 2, BASELINE

    def __init__(
        self, num_particles: int = 64, *, n: int = 16, num_prior_draws: int = 1024
    ) -> None:
        super().__init__(num_particles)
        self.n = whole_number("n", n)
        self.num_prior_draws = whole_number("num_prior_draws", num_prior_draws)
        self._evidence: dict[str, Tensor] = {}  # of the prior's draws, sorted, by prompt

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        self._meet(model, prompts)
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_target = joint.log_prior + self.log_ratio(prompts, joint.log_likelihood)
        log_weight = log_target - log_guide.detach()  # [K, N]
        surrogate = -(leave_one_out(log_weight) * log_guide).mean(0).sum()
        elbo = (
            joint.log_joint - log_guide.detach()
        ).mean()  # that of the model's posterior, to compare with
        return Losses(-log_weight.mean(0).sum(), surrogate, elbo, joint.log_likelihood.mean())

    def log_ratio(self, prompts: Prompts, log_likelihood: Tensor) -> Tensor:
        """log pi_n(x)/p0(x) for responses of evidence `[..., N]`, nats.

        The response counts among the draws it is ranked with: F never is 0, nor a tie of probability 0.
        """
        ratios = []
        for name, value in zip(prompts.names(), log_likelihood.unbind(-1), strict=True):
            known = self._evidence[name]
            below, upto = (
                torch.searchsorted(known, value.contiguous(), right=right)
                for right in (False, True)
            )
            total = len(known) + 1
            ratios.append(best_of_n_log_ratio((upto + 1) / total, below / total, self.n))
        return torch.stack(ratios, -1)

    def _meet(self, model: Program, prompts: Prompts) -> None:
        """Draw from the prior for the prompts that are new."""
        names = prompts.names()
        new = [i for i, name in enumerate(names) if name not in self._evidence]
        if new:
            draws = sample_prior(model, prompts[new], self.num_prior_draws, independent=True)
            for i, column in zip(new, draws.log_likelihood.double().T, strict=True):
                self._evidence[names[i]] = column.sort().values

    def get_state(self) -> dict[str, Tensor]:
        return dict(self._evidence)

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._evidence = dict(state)
