"""Best-of-n distillation: train the guide towards the best of n prior draws, to draw one for n.

    pi_n(x) = p0(x) (F(l)^n - F-(l)^n) / (F(l) - F-(l))
    F(l)    = P(l(y) <= l),   F-(l) = P(l(y) < l),   y ~ p0,   l = log likelihood
    loss    = E_q[log q(x) - log pi_n(x)] = KL(q || pi_n)

Variational best-of-n (Amini et al. 2024, arXiv 2407.06057), with ties counted right. Only the rank
of the log likelihood enters, so that beta and the scale of the reward play no part. F is the
empirical distribution function of prior draws, made once for each prompt. The gradient is the
leave-one-out gradient.
"""

from torch import Tensor

from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.parts.prior_rewards import PriorRewards
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.order_statistics import best_of_n_log_ratio
from inference.programs import Program
from model import Prompts
from model.common.checks import whole_number


class BestOfN_ELBO(ResponseObjective):  # noqa: N801 - named as Pyro names its objectives
    """KL(q || best of n). Unbiased given the empirical F; consistent in `num_prior_draws`.

    Supports hard constraints: an impossible response has the lowest rank. The ELBO among the
    metrics, of the model's own posterior, is then -inf.

    Args:
        num_particles: K, at least 2.
        n: Number of draws, of which pi_n is the best. KL(pi_n || p0) is log n - (n - 1)/n nats, or
            less where log likelihoods tie.
        num_prior_draws: Draws behind F, for each prompt, in the first step with the prompt.
    """

    ascends_elbo = True
    supports_hard_constraints = True
    min_particles, why_particles = 2, BASELINE

    def __init__(
        self, num_particles: int = 64, *, n: int = 16, num_prior_draws: int = 1024
    ) -> None:
        super().__init__(num_particles)
        self.n = whole_number("n", n)
        self.prior_rewards = PriorRewards(num_prior_draws, "ranks of best of n")

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        self.prior_rewards.meet(model, prompts)
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        joint = self.score(model, prompts, response)
        log_target = joint.log_prior + self.log_ratio(prompts, joint.log_likelihood)
        log_weight = log_target - log_guide.detach()  # [K, N]
        surrogate = -(leave_one_out(log_weight) * log_guide).mean(0).sum()
        elbo = (joint.log_joint - log_guide.detach()).mean()  # of the model's own posterior
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(-log_weight.mean(0).sum(), surrogate, *draws, elbo=elbo)

    def log_ratio(self, prompts: Prompts, log_likelihood: Tensor) -> Tensor:
        """log pi_n(x)/p0(x), nats, of responses with log likelihoods `[..., N]`."""
        return best_of_n_log_ratio(*self.prior_rewards.cdf(prompts, log_likelihood), self.n)

    def get_state(self) -> dict[str, Tensor]:
        return self.prior_rewards.get_state()

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.prior_rewards.set_state(state)
