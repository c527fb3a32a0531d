"""Wake-phi: forward KL by self-normalised importance sampling from the guide, for each prompt.

    grad = - sum_k W_k grad log q(x_k),   W = softmax(log w) over the K particles

The wake phase of reweighted wake-sleep (Bornschein and Bengio 2015, arXiv 1406.2751), with weights
for each prompt, which Pyro's `ReweightedWakeSleep` does not have. With a baseline, W - 1/K in place
of W: the self-normalised baseline of BRAIn (Pandey et al. 2024, arXiv 2402.02479), for draws of q.
"""

from inference.estimate import log_mean
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts
from model.common.checks import boolean


class WakePhi(ResponseObjective):
    """KL(p* || q) with self-normalised weights. The gradient is consistent in K, with bias O(1/K).

    Supports hard constraints: a prompt whose K responses are all impossible is left out of the
    step. The loss is minus the log of the mean weight, a bound on log Z.

    Args:
        num_particles: K, at least 2.
        has_baseline: True to subtract 1/K from each weight: the same mean gradient, and 0 on every
            sample at q = p*.
    """

    supports_hard_constraints, weight_power = True, 1.0
    min_particles, why_particles = 2, "one has all the weight, and a gradient of mean 0"

    def __init__(self, num_particles: int = 64, *, has_baseline: bool = False) -> None:
        super().__init__(num_particles)
        self.has_baseline = boolean("has_baseline", has_baseline)

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_weight = joint.log_joint - log_guide.detach()  # [K, N]
        log_z_hat = log_mean(log_weight)
        informed = ~log_z_hat.isneginf()  # also if NaN, so that the loss is NaN
        weight = log_weight.softmax(0)
        if self.has_baseline:
            weight = weight - 1 / self.num_particles
        weight = weight.where(informed, 0.0)
        loss, surrogate = -log_z_hat.where(informed, 0.0).sum(), -(weight * log_guide).sum()
        return Losses(loss, surrogate, response, log_guide, log_weight, joint.log_likelihood)
