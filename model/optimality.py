"""Control as inference: the prior given that optimality O = 1 is observed (Levine 2018).

    p(O = 1 | x) = exp((r(x) - r_max)/beta),   p(x | O = 1) = p0(x) exp(r(x)/beta) / Z

The posterior of `AlignmentModel`, with an observed variable in place of a factor (arXiv
1805.00909). The observation needs a probability, and so the reward needs a bound r_max. log Z is
lower by r_max/beta: p(O = 1) is the probability that rejection sampling accepts a prior draw.
"""

from __future__ import annotations

from typing import ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from model.alignment import AlignmentModel, site_of
from model.common.checks import instance
from model.likelihood import LikelihoodError
from model.prior.prompts import Prompts

ROUNDING = 1e-6  # relative excess of a reward over its bound that is rounding, as in float32


class OptimalityModel:
    """The program of an `AlignmentModel` with an observation in place of each `pyro.factor`.

    Args:
        model: prior, rewards, beta and factors; every reward and factor has an `upper_bound`.
    """

    def __init__(self, model: AlignmentModel) -> None:
        self.model = instance("model", model, AlignmentModel)

    def __call__(self, prompts: Prompts) -> Tensor:
        """Run the program. Refuses unknown or wrong bounds. Returns `[..., N, T]`."""
        with self.model.sampled_response(prompts) as response:
            terms = list(self.model.terms(prompts, response))
            bounds = self.model.log_bounds(prompts)
            for term in terms:
                optimality = _optimality(term.name, term.log_value, bounds[term.name])
                with site_of(term):
                    pyro.sample(term.name, optimality, obs=torch.ones_like(term.log_value))
        return response


def _optimality(name: str, log_value: Tensor, bound: float | Tensor | None) -> LogBernoulli:
    """Distribution of O: 1 with probability exp((r - r_max)/beta), or f / f_max."""
    if bound is None:
        fix = "state the bound, or use `AlignmentModel`, without one"
        raise ValueError(f"{name!r} has no `upper_bound`: {fix}")
    log_prob = log_value - bound
    if bool((log_prob > ROUNDING * (1 + abs(torch.as_tensor(bound)))).any()):
        excess = f"{log_prob.max().item():.4g} nats"
        raise LikelihoodError(f"{name!r} exceeds its `upper_bound` by {excess}: correct the bound")
    return LogBernoulli(log_prob.clamp(max=0))


class LogBernoulli(TorchDistribution):
    """A Bernoulli variable by its log probability of 1, nats, which may be exactly 0 or -inf.

    Torch's own Bernoulli takes logits, and so is never certain.
    """

    arg_constraints: ClassVar = {"log_prob_of_one": constraints.less_than(1e-9)}
    support = constraints.boolean

    def __init__(self, log_prob_of_one: Tensor, validate_args: bool | None = None) -> None:
        self.log_prob_of_one = log_prob_of_one
        super().__init__(log_prob_of_one.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> LogBernoulli:
        return LogBernoulli(self.log_prob_of_one.expand(batch_shape), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - as torch
        log_prob = self.log_prob_of_one.expand(self._extended_shape(sample_shape))
        return (torch.rand_like(log_prob).log() < log_prob).to(log_prob.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob_of_zero = torch.log(-torch.expm1(self.log_prob_of_one))
        return torch.where(value == 1, self.log_prob_of_one, log_prob_of_zero)
