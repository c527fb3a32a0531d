"""f-divergences: distributional policy gradient for any D_f between guide and posterior.

    D_f(q || p*) = E_p*[f(t)],   grad D_f = E_q[f'(t) grad log q],   t = q / p*

    grad D_f_hat = 1/K sum_k q(x_k)/a(x_k) (f'(t_k) - f'(1)) grad log q(x_k),   x ~ a
    t_k          = q(x_k) Z_hat / (p0(x_k) likelihood(x_k))

Go et al. 2023, arXiv 2302.08215. f'(1) is a control variate, as E_a[(q/a) grad log q] = 0: at
q = p* and Z_hat = Z all weights are 0, on every sample. For the forward KL, the control variate
turns DPG (Parshakova et al. 2019) into GDC++ (Korbak et al. 2022, arXiv 2206.00761).

Z_hat is a moving average of importance estimates. On-policy, a = q. Off-policy, a is an earlier
state of the guide, replaced by the current guide whenever that is closer to the posterior:
KL(p* || q) < KL(p* || a) if E_a[p*/a log(q/a)] > 0 (KL-adaptive DPG, Khalifa et al. 2021, arXiv
2012.11635).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from inference.estimate import log_mean
from inference.objectives.parts.log_z_average import LogZAverage
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.objectives.parts.states import part_of, with_prefix
from inference.programs import Program, sample_and_log_prob
from model import Prompts
from model.common.checks import as_given, finite, one_of, whole_number


class Divergence(NamedTuple):
    """An f, as functions of log u = log p*/q = -log t, which is -inf at impossible responses."""

    slope: Callable[[Tensor], Tensor]  # log u -> f'(t)
    value: Callable[[Tensor], Tensor]  # log u -> u f(t), whose mean under q is D_f
    supports_hard_constraints: bool = True  # True if both functions are finite at u = 0
    ascends_elbo: bool = False  # True for KL(q || p*)
    weight_power: float = 0.0  # a, where f'(t) grows as t^-a


def _u_log_u(log_u: Tensor) -> Tensor:
    return torch.xlogy(log_u.exp(), log_u.exp())


def _sign(log_u: Tensor) -> Tensor:
    return torch.where(log_u.isnan(), log_u, log_u.sign())  # torch's sign of NaN is 0


def _jensen_shannon(log_u: Tensor) -> Tensor:
    return (1 + log_u.exp()) * (math.log(2) - softplus(log_u)) + _u_log_u(log_u)


def alpha_divergence(alpha: float) -> Divergence:
    """D_alpha(p* || q) = (sum p*^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1)), not at 0 or 1."""
    alpha = finite("alpha", alpha)
    if alpha in (0.0, 1.0):
        name = "forward-kl" if alpha else "reverse-kl"
        raise ValueError(f"alpha is {alpha:g}, a limit with a name of its own: use `{name}`")
    scale = alpha * (alpha - 1)
    return Divergence(
        slope=lambda log_u: -(alpha * log_u).exp() / alpha,
        value=lambda log_u: ((alpha * log_u).exp() - log_u.exp()) / scale,
        supports_hard_constraints=alpha > 0,
        weight_power=alpha,
    )


DIVERGENCES: dict[str, Divergence] = {
    "forward-kl": Divergence(lambda log_u: -log_u.exp(), _u_log_u, weight_power=1.0),
    "reverse-kl": Divergence(lambda log_u: 1 - log_u, lambda log_u: -log_u, False, True),
    "jensen-shannon": Divergence(lambda log_u: math.log(2) - softplus(log_u), _jensen_shannon),
    "total-variation": Divergence(
        lambda log_u: -0.5 * _sign(log_u), lambda log_u: 0.5 * log_u.expm1().abs()
    ),
    "chi2-forward": Divergence(
        lambda log_u: -(2 * log_u).exp(),
        lambda log_u: (2 * log_u).exp() - log_u.exp(),
        weight_power=2.0,
    ),
    "chi2-reverse": Divergence(
        lambda log_u: 2 * torch.expm1(-log_u),
        lambda log_u: torch.expm1(-log_u) + log_u.expm1(),
        supports_hard_constraints=False,
        weight_power=-1.0,
    ),
    "alpha": alpha_divergence(0.5),
}
"""Divergences by name. `forward-kl` is KL(p* || q), `chi2-forward` is E_q[(p*/q)^2] - 1, and
`jensen-shannon` is twice the usual Jensen-Shannon divergence."""


class FDivergence(ResponseObjective):
    """D_f(q || p*). Value and gradient are consistent: unbiased given Z, which is a moving average.

    Value and gradient are means under q, on the responses that q can draw: others of an earlier
    guide have no weight. Supports hard constraints where f does. A prompt all of whose responses
    so far were impossible is left out.

    Args:
        divergence: Name in `DIVERGENCES`, or a `Divergence`.
        num_particles: K.
        adapt_every: None to draw from the guide. A number to draw from an earlier state of the
            guide, and to replace that state, if the guide is closer to the posterior, after every
            so many steps; costs twice the memory of the trained parameters.
        decay: Decay of the moving average of Z.
    """

    def __init__(
        self,
        divergence: str | Divergence = "forward-kl",
        num_particles: int = 64,
        *,
        adapt_every: int | None = None,
        decay: float = 0.99,
    ) -> None:
        super().__init__(num_particles)
        if not isinstance(divergence, Divergence):
            divergence = DIVERGENCES[one_of("divergence", divergence, DIVERGENCES)]
        if adapt_every is not None:
            adapt_every = whole_number("adapt_every", adapt_every, why="steps, or None")
        self.divergence = divergence
        self.supports_hard_constraints = divergence.supports_hard_constraints
        self.ascends_elbo = divergence.ascends_elbo
        self.weight_power = divergence.weight_power
        self.adapt_every = adapt_every
        self.log_z = LogZAverage(decay)
        self.proposal: dict[str, Tensor] | None = None  # parameters of an earlier guide
        self._gain: Tensor | float = 0.0  # E_a[p*/a log(q/a)], summed since the last decision
        self._steps = 0

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response, log_proposal = self._draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        log_proposal = log_guide.detach().double() if log_proposal is None else log_proposal
        log_ratio = log_guide.detach() - log_proposal  # log q/a, [K, N]
        joint = self.score(model, prompts, response)
        log_weight = joint.log_joint - log_proposal
        log_z = self.log_z.update(prompts, log_mean(log_weight))
        informed = ~log_z.isneginf()  # a possible response has been drawn
        impossible = log_ratio == -torch.inf  # for the guide now: no part of a mean under q
        log_u = torch.where(informed & ~impossible, log_weight - log_ratio - log_z, 0.0)
        slope, value = self.divergence.slope, self.divergence.value  # may change their argument
        at_draws = as_given("what slope returned", slope(log_u.clone()), log_u)
        centred = at_draws - slope(torch.zeros_like(log_u))
        ratio = log_ratio.exp()
        surrogate = ratio * centred * log_guide.masked_fill(impossible, 0.0)
        loss = (ratio * as_given("what value returned", value(log_u), log_u)).mean(0).sum()
        if self.adapt_every is not None:
            weight = (log_weight - log_z).where(informed, -torch.inf).exp()
            self._gain = self._gain + torch.where(weight == 0, 0.0, weight * log_ratio).mean()
        self.metrics["log_z"] = log_z.mean()
        share = None if self.adapt_every is None else ratio / len(ratio)
        draws = (response, log_guide, log_weight - log_ratio, joint.log_likelihood)
        return Losses(loss, surrogate.mean(0).sum(), *draws, share)

    def _draw(
        self, guide: Program, prompts: Prompts
    ) -> tuple[TorchDistribution, Tensor, Tensor | None]:
        """The guide's distribution, draws from the proposal, and their log a (None if a = q)."""
        if self.adapt_every is None:
            return *self.draw(guide, prompts), None
        with in_place(self._adapt(guide, prompts, self.adapt_every)), torch.no_grad():
            sample = partial(sample_and_log_prob, num_samples=self.num_particles)
            _, response, log_proposal = self.draw_by(guide, prompts, sample)
        return self.distribution(guide, prompts, response), response, log_proposal

    def _adapt(self, guide: Program, prompts: Prompts, every: int) -> dict[str, Tensor]:
        """Return the proposal; replace it first if a decision is due and the guide is closer."""
        if self.proposal is None:
            self.draw(guide, prompts)  # puts the guide's parameters into Pyro's store
            self.proposal = snapshot()
        elif self._steps % every == 0:
            if self._gain > 0:
                self.proposal = snapshot()
            self._gain = 0.0
        self._steps += 1
        return self.proposal

    def get_state(self) -> dict[str, Tensor]:
        state = with_prefix("log_z/", self.log_z.get_state())
        state |= with_prefix("proposal/", self.proposal or {})
        gain = torch.as_tensor(self._gain, dtype=torch.float64)
        return state | {"gain": gain, "steps": torch.tensor(self._steps)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.log_z.set_state(part_of(state, "log_z/"))
        self.proposal = part_of(state, "proposal/") or None
        self._gain, self._steps = state["gain"], int(state["steps"])


def snapshot() -> dict[str, Tensor]:
    """Copy of the parameters that are in Pyro's store now, by name."""
    parameters = pyro.get_param_store().named_parameters()
    return {name: parameter.detach().clone() for name, parameter in parameters}


@contextmanager
def in_place(parameters: dict[str, Tensor]) -> Iterator[None]:
    """Give the parameters in Pyro's store the values of a snapshot inside the context."""
    current = {name: value for name, value in snapshot().items() if name in parameters}
    _write(parameters)
    try:
        yield
    finally:
        _write(current)


@torch.no_grad()
def _write(values: dict[str, Tensor]) -> None:
    store = dict(pyro.get_param_store().named_parameters())
    for name, value in values.items():
        store[name].copy_(value)
