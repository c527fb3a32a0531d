"""RL with no KL penalty: REINFORCE on the reward alone, to hold inference against.

    grad E_q[r/beta]_hat = 1/K sum_k (r_k - 1/(K-1) sum_{j != k} r_j)/beta grad log q(x_k)

It is `LeaveOneOut_ELBO` with log p0 - log q left out of the log-weights: what that goes to as beta -> 0. `AlignmentModel` takes
no beta of 0, at which there is no posterior; here beta scales the gradient and nothing else. It is not in `OBJECTIVES`, for its
optimum is no posterior either, but a point.
"""

from __future__ import annotations

from inference import Losses, Program, ResponseObjective
from inference.objectives.leave_one_out import leave_one_out
from model import Prompts


class RewardOnly(ResponseObjective):
    """-E_q[r]/beta, leave-one-out. Unbiased, value and gradient. The ELBO is among its metrics, to see what it costs."""

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)  # [K, N]
        joint = self.score(model, prompts, response)
        surrogate = -(leave_one_out(joint.log_likelihood) * log_guide).mean(0).sum()
        elbo = (joint.log_joint - log_guide.detach()).mean()
        return Losses(
            -joint.log_likelihood.mean(0).sum(), surrogate, elbo, joint.log_likelihood.mean()
        )
