"""The largest of k draws: the ELBO with the best log likelihood of a group in place of the mean.

    objective   E_q[max of l(x_1), ..., l(x_k)] - KL(q || p0),    l = log likelihood, x_i ~ q
    gradient    1/K sum_i (k (g_i - b_i) + leave-one-out log p0/q) grad log q(x_i)
    g_i, b_i    means over the other draws:  max(l_i, k - 1 of them),   max of k of them

Pass@k policy optimisation (PKPO; Walder and Karkhanis 2025, arXiv 2505.15201) with its
leave-one-out baseline, and the KL penalty of the ELBO. For a reward of 0 and 1 the first term is
pass@k over beta. g and b are means over all subsets of the K - 1 other draws. With k = 1 the
gradient is that of `LeaveOneOut_ELBO`.

The target is p0 exp(k E_q[max(l, best of k - 1)])/Z (derived here): where a reward would often be
exceeded by one of k - 1 other draws, more of it pays little. `max-at-k` of `TARGETS` is its exact
solution, and `pass-at-k` its case of two rewards.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from inference.objectives.leave_one_out import leave_one_out
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts
from model.common.checks import whole_number


class MaxAtK_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO of the best of k draws. Unbiased, value and gradient. Refuses hard constraints.

    Another target than p* for k above 1. The metrics have the ELBO of the model's posterior.

    Args:
        num_particles: K, at least k + 1.
        k: number of draws, of which the best one counts.
    """

    def __init__(self, num_particles: int = 64, *, k: int = 3) -> None:
        super().__init__(num_particles)
        self.k = whole_number("k", k)
        why = f"the baseline is the best of k={k} other draws"
        whole_number("num_particles", num_particles, at_least=k + 1, why=why)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_ratio = joint.log_prior - log_guide.detach()  # [K, N]
        best, credit = best_of_subsets(joint.log_likelihood, self.k)
        advantage = self.k * credit + leave_one_out(log_ratio)
        surrogate = -(advantage * log_guide).mean(0).sum()
        log_weight = joint.log_joint - log_guide.detach()
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(-(best + log_ratio.mean(0)).sum(), surrogate, *draws)


def best_of_subsets(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean of the largest value over all subsets of k, `[N]`, and g - b of each value, `[K, N]`.

    A mean of the largest is the last value less the steps between values in order, each times the
    share of the subsets that lie below the step.
    """
    num = len(values)
    ordered, order = values.sort(0)
    step = ordered.diff(dim=0)  # [K - 1, N]
    below = torch.arange(1, num, dtype=values.dtype, device=values.device)[:, None]
    best = ordered[-1] - (share(below, k, num) * step).sum(0)
    over = share(below, k, num - 1) * step  # steps below the value
    under = (share(below - 1, k - 1, num - 1) - share(below - 1, k, num - 1)) * step
    credit = pad(over.cumsum(0), (0, 0, 1, 0)) + pad(under.cumsum(0), (0, 0, 1, 0)) - under.sum(0)
    return best, torch.empty_like(values).scatter(0, order, credit)


def share(part: Tensor, k: int, num: int) -> Tensor:
    """C(part, k)/C(num, k), the share of the subsets of k of `num` values that lie in a part."""
    index = torch.arange(k, dtype=part.dtype, device=part.device)
    return ((part - index) / (num - index)).clamp(min=0).prod(-1, keepdim=True)
