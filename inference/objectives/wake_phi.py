"""Wake-phi: forward KL by self-normalised importance sampling from the guide, each prompt on its own.

    grad = - sum_k W_k grad log q(x_k),   W = softmax(log w) over the K particles of a prompt,   w = p0(x) exp(r(x)/beta) / q(x)

The wake phase of reweighted wake-sleep (Bornschein and Bengio 2015, arXiv 1406.2751). Pyro's `ReweightedWakeSleep` normalises
over all prompts at once, so that one particle index gets all the weight as prompts are added; here each prompt has its own.
"""

from __future__ import annotations

from inference.estimate import log_mean
from inference.objectives.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts


class WakePhi(ResponseObjective):
    """KL(p* || q) with weights normalised over the particles. The gradient is consistent in K, its bias O(1/K).

    Bears evidence of -inf: an impossible response has weight 0, and a prompt all of whose responses are impossible tells
    nothing in that step. The loss is minus the log of the mean weight, a bound on log Z; such a prompt is left out of it.

    Args:
        num_particles: K, at least 2.
    """

    supports_hard_constraints = True
    min_particles, why_particles = (
        2,
        "one has all the weight whatever it is, and a gradient of mean 0",
    )

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_weight = joint.log_joint - log_guide.detach()  # [K, N]
        log_z_hat = log_mean(log_weight)
        informed = ~log_z_hat.isneginf()  # NaN among them, which the loss then is
        weight = log_weight.softmax(0).where(informed, 0.0)
        surrogate = -(weight * log_guide).sum()
        return Losses(
            -log_z_hat.where(informed, 0.0).sum(),
            surrogate,
            log_weight.mean(),
            joint.log_likelihood.mean(),
        )
