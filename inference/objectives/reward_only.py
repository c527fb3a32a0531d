"""RL without KL penalty: REINFORCE on the reward alone, to compare inference with.

    grad E_q[r/beta]_hat = 1/K sum_k (r_k - 1/(K-1) sum_{j != k} r_j)/beta grad log q(x_k)

The limit of `LeaveOneOut_ELBO` as beta -> 0. Every distribution over the responses of the largest
reward is an optimum, whatever the prior: `OBJECTIVES` does not list the class.
"""

from inference.objectives.leave_one_out import leave_one_out
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts


class RewardOnly(ResponseObjective):
    """-E_q[r]/beta by REINFORCE, unbiased in value and gradient. The metrics have the ELBO."""

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)  # [K, N]
        joint = self.score(model, prompts, response)
        surrogate = -(leave_one_out(joint.log_likelihood) * log_guide).mean(0).sum()
        log_weight = joint.log_joint - log_guide.detach()
        loss = -joint.log_likelihood.mean(0).sum()
        return Losses(loss, surrogate, response, log_guide, log_weight, joint.log_likelihood)
