"""f-divergences: distributional policy gradient for any D_f between guide and posterior (Go et al. 2023, arXiv 2302.08215).

    D_f(q || p*)   = E_p*[f(t)],   t = q / p*
    grad D_f       = E_q[f'(t) grad log q]

    grad D_f_hat   = 1/K sum_k q(x_k)/a(x_k) (f'(t_k) - f'(1)) grad log q(x_k),   x ~ a,   t = q Z_hat / (p0 exp(r/beta))

f'(1) is a control variate: E_a[(q/a) grad log q] = 0. With it all weights are 0 where q = p* and Z_hat = Z, on every sample;
for the forward KL it makes DPG (Parshakova et al. 2019) into GDC++ (Korbak et al. 2022, arXiv 2206.00761), the weight being 1 -
p*/q.

Z_hat is a moving average of importance estimates. On-policy a = q. Off-policy a is an earlier state of the guide, replaced by
the guide of the day whenever that is closer to the posterior: KL(p* || q) < KL(p* || a) if E_a[p*/a log(q/a)] > 0 (KL-adaptive
DPG, Khalifa et al. 2021, arXiv 2012.11635).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from inference.estimate import log_mean
from inference.objectives.log_z_average import LogZAverage
from inference.objectives.response_objective import Losses, ResponseObjective, part_of
from inference.objectives.snapshot import Snapshot
from inference.programs import Program
from model import Prompts
from model.common.checks import finite, one_of, whole_number


class Divergence(NamedTuple):
    """One f, as functions of log u = log p*/q = -log t, which is -inf where a response is impossible.

    Attributes:
        slope: log u -> f'(t).
        value: log u -> u f(t), whose mean under q is D_f.
        supports_hard_constraints: whether both are finite at u = 0.
    """

    slope: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    supports_hard_constraints: bool = True


def _u_log_u(log_u: Tensor) -> Tensor:
    return torch.xlogy(log_u.exp(), log_u.exp())


def _sign(log_u: Tensor) -> Tensor:
    return torch.where(log_u.isnan(), log_u, log_u.sign())  # torch's own takes NaN for 0


def _jensen_shannon(log_u: Tensor) -> Tensor:
    return (1 + log_u.exp()) * (math.log(2) - softplus(log_u)) + _u_log_u(log_u)


def alpha_divergence(alpha: float) -> Divergence:
    """D_alpha(p* || q) = (sum p*^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1)); its limits at 1 and 0 are the two KLs."""
    alpha = finite("alpha", alpha)
    if alpha in (0.0, 1.0):
        raise ValueError(
            f"alpha is {alpha:g}, a limit with a name of its own: use `{'forward' if alpha else 'reverse'}-kl`"
        )
    scale = alpha * (alpha - 1)
    return Divergence(
        slope=lambda log_u: -(alpha * log_u).exp() / alpha,
        value=lambda log_u: ((alpha * log_u).exp() - log_u.exp()) / scale,
        supports_hard_constraints=alpha > 0,
    )


DIVERGENCES: dict[str, Divergence] = {
    "forward-kl": Divergence(lambda log_u: -log_u.exp(), _u_log_u),
    "reverse-kl": Divergence(
        lambda log_u: 1 - log_u, lambda log_u: -log_u, supports_hard_constraints=False
    ),
    "jensen-shannon": Divergence(lambda log_u: math.log(2) - softplus(log_u), _jensen_shannon),
    "total-variation": Divergence(
        lambda log_u: -0.5 * _sign(log_u), lambda log_u: 0.5 * log_u.expm1().abs()
    ),
    "chi2-forward": Divergence(
        lambda log_u: -(2 * log_u).exp(), lambda log_u: (2 * log_u).exp() - log_u.exp()
    ),
    "chi2-reverse": Divergence(
        lambda log_u: 2 * torch.expm1(-log_u),
        lambda log_u: torch.expm1(-log_u) + log_u.expm1(),
        supports_hard_constraints=False,
    ),
    "alpha": alpha_divergence(0.5),
}
"""By name. `forward-kl` is KL(p* || q), `chi2-forward` E_q[(p*/q)^2] - 1, `jensen-shannon` twice the usual one."""


class FDivergence(ResponseObjective):
    """D_f(q || p*). Value and gradient are consistent: unbiased given Z, which is a moving average.

    Bears evidence of -inf where f does, as the forward KL; reverse KL and chi2-reverse are infinite then and refuse. A prompt
    whose responses have all been impossible so far is left out.

    Args:
        divergence: a name in `DIVERGENCES`, or one of your own.
        num_particles: K.
        adapt_every: None draws from the guide. A number draws from an earlier state of it, and asks every so many steps whether
            to replace that; it takes the memory of the trained parameters twice more.
        decay: of the average of Z.
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
        self.divergence = divergence
        self.supports_hard_constraints = divergence.supports_hard_constraints  # type: ignore[misc]
        self.adapt_every = (
            None
            if adapt_every is None
            else whole_number("adapt_every", adapt_every, why="steps, or None")
        )
        self.log_z = LogZAverage(decay)
        self.proposal: Snapshot | None = None
        self._gain = 0.0  # E_a[p*/a log(q/a)], summed since the proposal was last in question
        self._steps = 0

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response, log_proposal = self._draw(guide, prompts)
        log_guide = distribution.log_prob(response)
        log_proposal = log_guide.detach().double() if log_proposal is None else log_proposal
        log_ratio = log_guide.detach() - log_proposal  # log q/a, [K, N]
        joint = self.score(model, prompts, response)
        log_weight = joint.log_joint - log_proposal
        log_z = self.log_z.update(prompts, log_mean(log_weight))
        informed = (
            ~log_z.isneginf()
        )  # until a possible response has been seen there is nothing to learn from
        log_u = torch.where(informed, log_weight - log_ratio - log_z, 0.0)
        centred = self.divergence.slope(log_u) - self.divergence.slope(torch.zeros_like(log_u))
        ratio = log_ratio.exp()
        surrogate = (ratio * centred * log_guide).mean(0).sum()
        loss = (ratio * self.divergence.value(log_u)).mean(0).sum()
        if self.adapt_every is not None:
            self._gain += (
                ((log_weight - log_z).exp() * log_ratio).where(informed, 0.0).mean().item()
            )
        self.metrics["log_z"] = log_z.mean().item()
        elbo = (ratio * (log_weight - log_ratio)).mean()
        return Losses(loss, surrogate, elbo, (ratio * joint.log_likelihood).mean())

    def _draw(
        self, guide: Program, prompts: Prompts
    ) -> tuple[TorchDistribution, Tensor, Tensor | None]:
        """The guide's distribution; `[K, N, T]` draws of the proposal; their log-density under it, None if it is the guide."""
        if self.adapt_every is None:
            return *self.draw(guide, prompts), None
        proposal_parameters = self._adapt(guide, prompts, self.adapt_every)
        with proposal_parameters.in_place(), torch.no_grad():
            proposal, response = self.draw(guide, prompts)
            log_proposal = proposal.log_prob(response).double()
        return self.distribution(guide, prompts, response), response, log_proposal

    def _adapt(self, guide: Program, prompts: Prompts, every: int) -> Snapshot:
        """The proposal: that of the last step, or the guide as it is now, if it is time to ask and that is closer."""
        if self.proposal is None:
            self.draw(guide, prompts)  # brings its parameters into the store
            self.proposal = Snapshot.take()
        elif self._steps % every == 0:
            if self._gain > 0:
                self.proposal = Snapshot.take()
            self._gain = 0.0
        self._steps += 1
        return self.proposal

    def get_state(self) -> dict[str, Tensor]:
        state = {f"log_z/{name}": seen for name, seen in self.log_z.get_state().items()}
        if self.proposal is not None:
            state |= {f"proposal/{name}": value for name, value in self.proposal.parameters.items()}
        return state | {
            "gain": torch.tensor(self._gain, dtype=torch.float64),
            "steps": torch.tensor(self._steps),
        }

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.log_z.set_state(part_of(state, "log_z/"))
        parameters = part_of(state, "proposal/")
        self.proposal = Snapshot(parameters) if parameters else None
        self._gain, self._steps = state["gain"].item(), int(state["steps"].item())
