"""Mirror descent by squared residuals, with the mean reward in place of log Z.

    minimise  E_{q_k}[(r - r_bar - tau log q/q_k)^2],   r_bar = E_{q_k} r
    step      s + c e^s = (r - r_bar)/tau,   s = log q/q_k,   c = KL(q_k || q)

With tau log Z for r_bar the residual is 0 at the exact step, q_k exp(r/tau)/Z. With the mean, as in
the report on Kimi k1.5 (arXiv 2501.12599), no normalised q has the residual 0. The minimum over
normalised q is the step above (2026, arXiv 2602.05933), the target `squared_residual` with the
constant r_bar/tau and draws of q_k.
"""

from functools import partial

from torch import Tensor

from inference.targets.fixed_points.problem import Problem, by_prompt
from inference.targets.fixed_points.squared_residual import at_constant
from model.common.checks import whole_number


def mean_mirror_descent(problem: Problem, num_steps: int = 1) -> Tensor:
    """log q after `num_steps` steps from p0 at tau = `num_steps` beta, `[S, N]`, nats."""
    num_steps = whole_number("num_steps", num_steps)
    log_guide = problem.log_prior
    for _ in range(num_steps):
        step = partial(_step, tau=num_steps * problem.beta)
        log_guide = by_prompt(step, log_guide, problem.reward)
    return log_guide


def _step(log_guide: Tensor, reward: Tensor, tau: float) -> Tensor:
    centred = reward - (log_guide.exp() * reward).sum(0)
    return at_constant(log_guide, centred / tau)
