"""Distributional constraints: the distribution nearest to a base with given means of features.

(GDC; Khalifa et al. 2021, arXiv 2012.11635.)

    p(x) = base(x) exp(lambda . phi(x)) / Z(lambda),    E_p[phi] = target
    lambda = argmin log Z(lambda) - lambda . target      convex; its gradient is E_p[phi] - target, its Hessian Cov_p[phi]

The base is the posterior of a model. Of the prior alone, p is the target of distributional constraints; of a model with hard
constraints the base is that of pointwise ones, and p that of both (hybrid). Expectations are sums over all responses where they
are few, and self-normalised importance sampling from the prior elsewhere. Over N prompts the multipliers are shared and the
means are those over all prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from torch import Tensor

from inference.estimate import Estimate
from inference.prior_sample import FEW, PriorSample, sample_prior
from inference.programs import Program, response_distribution
from inference.samplers.posterior import check_support
from model import Prompts, ResponseDistribution, Reward, Tilt
from model.common.checks import finite, function, instance
from model.likelihood import ImpossibleResponseError, LikelihoodError, check_made_for, check_values

LIMIT = 30.0  # multipliers of a target out of reach stop at so many nats by the standard deviation of their feature
MARGIN = (
    1e-9  # share of the base that a target must have room for, to be inside of what can be reached
)
POLISH = 3  # plain Newton steps at the end
GRADIENT = 1e-10  # of the dual, by the standard deviation of a feature
CONVERGED = 1e-6  # a solution's moments are off by no larger a share of their standard deviation
ROUNDING = 1e-12  # a feature that varies by so small a share of its size is constant


class UnattainableMomentsError(ValueError):
    """No distribution over the responses at hand has the moments that are asked for."""


@dataclass(frozen=True)
class MomentMatch:
    """Fitted multipliers and what they reach. By the name of the feature:

    Attributes:
        multipliers: lambda, nats per unit of the feature.
        standard_errors: of the multipliers, from the draws; 0 where all responses were listed.
        targets: E[phi] as asked for.
        moments: E[phi] as reached on the responses at hand; the errors are those of other draws at the same multipliers.
        base_moments: E[phi] of the base.
        kl: KL(p || base), nats; its error takes in that of the multipliers.
        effective_sample_size: of the draws weighed for p, the lowest over prompts; None where all responses were listed.
        attainable: whether the targets are means of some distribution over these responses, with all of the base's support.
        features: phi.
    """

    multipliers: dict[str, float]
    standard_errors: dict[str, float]
    targets: dict[str, float]
    moments: dict[str, Estimate]
    base_moments: dict[str, Estimate]
    kl: Estimate
    effective_sample_size: float | None
    attainable: bool
    features: Mapping[str, Reward]

    @property
    def factor(self) -> Tilt:
        """The factor exp(lambda . phi), to use beside the likelihood of the base.

        Raises:
            UnattainableMomentsError: if there is no such tilt.
        """
        if not self.attainable:
            raise UnattainableMomentsError(self._told())
        return Tilt(self.features, self.multipliers)

    def _told(self) -> str:
        reached = ", ".join(
            f"{name} {self.targets[name]:g} (reached {self.moments[name].value:.4g})"
            for name in self.multipliers
        )
        return (
            f"no finite multipliers give the moments {reached} on these responses. A mean at the end of its range is a hard "
            "constraint: use `Constraint`. Else ask for less, or draw more"
        )

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.base_moments[name]} in the base, {self.moments[name]} of {self.targets[name]:g} asked for, "
            f"multiplier {self.multipliers[name]:.4f} ± {self.standard_errors[name]:.4f}"
            for name in self.multipliers
        ]
        size = self.effective_sample_size
        lines.append(
            f"KL to the base {self.kl}, "
            + ("exact" if size is None else f"effective sample size {size:.0f}")
        )
        if not self.attainable:
            lines.append(self._told())
        elif self.few:
            lines.append(self._told_few())
        return "\n".join(lines)

    @property
    def few(self) -> bool:
        """Whether the draws are too few to say what the moments are elsewhere."""
        return self.effective_sample_size is not None and self.effective_sample_size < FEW

    def _told_few(self) -> str:
        return (
            f"{self.effective_sample_size:.0f} effective draws stand for this, so that on others the moments may be far off: "
            "draw more, or ask for less"
        )


def match_moments(
    model: Program,
    prompts: Prompts,
    features: Mapping[str, Reward],
    targets: Mapping[str, float],
    *,
    num_draws: int = 4096,
) -> MomentMatch:
    """Fit the multipliers, by a trust-region Newton method on the dual.

    Args:
        model: the base: a Pyro program with a prior and factors, of which -inf is borne.
        prompts: N prompts.
        features: phi, by name.
        targets: E[phi], by the same names, the mean over prompts.
        num_draws: responses of the prior, for each prompt; where there are no more than these all are listed, and the fit is
            exact. Else it is consistent as they grow.

    Returns:
        The fit; with a warning, if fewer than `FEW` effective draws stand for it. Also where the target is out of reach; then
        with a warning too, as far as `LIMIT` goes.

    Raises:
        ValueError: if the names differ, or there is none, or a target is not finite.
        LikelihoodError: if a feature is NaN or infinite.
        OtherLanguageModelError: if a feature was made for another language model than the base's prior.
        NoSupportError: if the base rules out all responses.
        RuntimeError: if the multipliers of attainable targets do not converge.
    """
    instance("features", features, Mapping)  # type: ignore[type-abstract]
    instance("targets", targets, Mapping)  # type: ignore[type-abstract]
    if not features or features.keys() != targets.keys():
        raise ValueError(
            f"features are {sorted(features)} and targets {sorted(targets)}, expected the same names, at least one"
        )
    for name, wanted in targets.items():
        function(
            f"the feature {name!r} of features", features[name], why="of prompts and responses"
        )
        finite(f"the target of {name!r}", wanted, why="it is a mean")
    names = list(features)
    prior = response_distribution(model, prompts, role="model")
    for name in names if isinstance(prior, ResponseDistribution) else ():
        check_made_for(f"feature {name!r}", features[name], prior.space)
    bank = sample_prior(model, prompts, num_draws)
    check_support(bank.log_likelihood, prompts.texts, "draw more, or loosen the constraint")
    shape = bank.response.shape[:-1]
    phi = torch.stack(
        [_checked(name, features[name](prompts, bank.response), shape) for name in names]
    )
    log_base = (bank.log_prior_weight + bank.log_likelihood).log_softmax(0).cpu()  # [M, N]
    phi, target = (
        phi.cpu(),
        torch.tensor([float(targets[name]) for name in names], dtype=torch.float64),
    )
    attainable = _room(phi, log_base, target) > MARGIN
    dual = _Dual(phi, log_base, target)
    multipliers = dual.solve(attainable)
    log_tilt = torch.einsum("f,fmn->mn", multipliers, phi)
    log_weight = log_tilt.to(bank.log_likelihood.device) + bank.log_likelihood
    moments = {
        name: bank.mean(log_weight, phi[f].to(log_weight.device)) for f, name in enumerate(names)
    }
    found = MomentMatch(
        multipliers=dict(zip(names, multipliers.tolist(), strict=True)),
        standard_errors=dict(
            zip(names, dual.standard_errors(multipliers, bank.exact), strict=True)
        ),
        targets={name: float(targets[name]) for name in names},
        moments=moments,
        base_moments={
            name: bank.mean(bank.log_likelihood, phi[f].to(log_weight.device))
            for f, name in enumerate(names)
        },
        kl=_kl(bank, log_weight, attainable),
        effective_sample_size=bank.effective_sample_size(log_weight),
        attainable=attainable,
        features=features,
    )
    if not attainable:
        warnings.warn(found._told(), stacklevel=2)
    elif found.few:
        warnings.warn(found._told_few(), stacklevel=2)
    return found


def _checked(name: str, values: object, shape: torch.Size) -> Tensor:
    try:
        return check_values(f"feature {name!r}", values, shape)
    except ImpossibleResponseError:
        raise LikelihoodError(
            f"feature {name!r} is -inf for some response, and has no mean. Of a constraint use what it constrains, or 1 and 0"
        ) from None


class _Dual:
    """log Z(lambda) - lambda . target, averaged over prompts, in units in which every feature has standard deviation 1."""

    def __init__(self, phi: Tensor, log_base: Tensor, target: Tensor) -> None:
        base = log_base.exp()
        mean = (base * phi).sum(1, keepdim=True)  # [F, 1, N]
        self.scale = (base * (phi - mean).square()).sum(1).mean(1).sqrt()  # [F]
        possible = base > 0
        extent = (
            phi.masked_fill(~possible, -torch.inf).amax(1)
            - phi.masked_fill(~possible, torch.inf).amin(1)
        ).amax(1)
        self.rounding = ROUNDING * phi.masked_fill(~possible, 0.0).abs().amax((1, 2))
        self.free = (
            extent > self.rounding
        )  # a feature that is the same for all responses has no multiplier
        self.scale = torch.where(self.scale > 0, self.scale, extent)
        self.scale = torch.where(self.free, self.scale, 1.0)
        self.phi = (phi - target[:, None, None]) / self.scale[
            :, None, None
        ]  # centred: the gradient is a mean of these
        self.phi = torch.where(self.free[:, None, None], self.phi, 0.0)
        self.log_base = log_base

    def _law(self, scaled: NDArray) -> tuple[Tensor, Tensor]:
        """log Z `[N]` and p `[M, N]` at multipliers in these units."""
        log_joint = self.log_base + torch.einsum("f,fmn->mn", torch.from_numpy(scaled), self.phi)
        return log_joint.logsumexp(0), log_joint.softmax(0)

    def value_and_gradient(self, scaled: NDArray) -> tuple[float, NDArray]:
        log_z, prob = self._law(scaled)
        return log_z.mean().item(), (prob * self.phi).sum(1).mean(1).numpy()

    def hessian(self, scaled: NDArray) -> NDArray:
        """The covariance of the features within a prompt, averaged over prompts, `[F, F]`."""
        _, prob = self._law(scaled)
        mean = (prob * self.phi).sum(1)  # [F, N]
        second = torch.einsum("mn,fmn,gmn->fgn", prob, self.phi, self.phi)
        return (second - mean[:, None] * mean[None]).mean(-1).numpy()

    def solve(self, attainable: bool) -> Tensor:
        """The minimum; where there is none, the best within `LIMIT`. `[F]`, nats per unit of the feature."""
        start = np.zeros(len(self.phi))
        if attainable:
            options = {"gtol": GRADIENT, "maxiter": 1000}
            by = {"jac": True, "hess": self.hessian, "method": "trust-exact", "options": options}
            found = minimize(self.value_and_gradient, start, **by).x
            for _ in range(
                POLISH
            ):  # next to the minimum values no longer tell, but the gradient does
                found = (
                    found - np.linalg.pinv(self.hessian(found)) @ self.value_and_gradient(found)[1]
                )
            self._check(found)
        else:
            bounds = [(-LIMIT, LIMIT)] * len(start)
            found = minimize(
                self.value_and_gradient, start, jac=True, bounds=bounds, method="L-BFGS-B"
            ).x
        return torch.where(self.free, torch.from_numpy(found) / self.scale, 0.0)

    def _check(self, scaled: NDArray) -> None:
        """Refuse a solution whose moments are not the targets, to a share of their spread under it."""
        scale = self.scale.numpy()
        off = np.abs(self.value_and_gradient(scaled)[1]) * scale
        spread = np.sqrt(np.diag(self.hessian(scaled)).clip(min=0)) * scale
        if (off > CONVERGED * spread + self.rounding.numpy()).any():
            raise RuntimeError(
                f"the multipliers did not converge: the moments are off by up to {off.max():.1e}. Ask for less, or draw more"
            )

    def standard_errors(self, multipliers: Tensor, exact: bool) -> list[float]:
        """By the delta method: lambda moves by minus the inverse Hessian times what each draw adds to the gradient."""
        if exact:
            return [0.0] * len(multipliers)
        scaled = (multipliers * self.scale).numpy()
        _, prob = self._law(scaled)
        num_draws, num_prompts = prob.shape
        residual = self.phi - (prob * self.phi).sum(1, keepdim=True)
        influence = num_draws * prob * residual / num_prompts  # [F, M, N]
        noise = (
            torch.einsum("fmn,gmn->fg", influence, influence).numpy() / (num_draws - 1) / num_draws
        )
        inverse = np.linalg.pinv(self.hessian(scaled))
        return (np.sqrt(np.diag(inverse @ noise @ inverse)) / self.scale.numpy()).tolist()


def _room(phi: Tensor, log_base: Tensor, target: Tensor) -> float:
    """The largest t for which target = t E_base[phi] + (1 - t) times a mean of phi over the same responses; below 0 for none.

    Above 0 the target is inside of what can be reached, and the multipliers are finite; at 0 it is on the edge. A linear
    program in the probabilities of the different values of phi at each prompt.
    """
    num_prompts = log_base.shape[1]
    columns, prompt_of = [], []
    for n in range(num_prompts):
        values = phi[:, log_base[:, n] > -torch.inf, n].T.unique(dim=0)  # [U, F]
        columns.append(values)
        prompt_of += [n] * len(values)
    rows = torch.cat(columns)  # [C, F]
    base_mean = (log_base.exp() * phi).sum(1).mean(1)  # [F]
    scale = rows.abs().amax(0).clamp(min=1e-12)
    one_each = torch.nn.functional.one_hot(torch.tensor(prompt_of), num_prompts).double()  # [C, N]
    equal = torch.cat(
        [
            torch.cat([(rows / scale).T / num_prompts, (base_mean / scale)[:, None]], 1),
            torch.cat([one_each.T, torch.ones(num_prompts, 1, dtype=torch.float64)], 1),
        ]
    )
    right = torch.cat([target / scale, torch.ones(num_prompts, dtype=torch.float64)])
    cost = np.zeros(equal.shape[1])
    cost[-1] = -1.0
    found = linprog(cost, A_eq=equal.numpy(), b_eq=right.numpy(), bounds=(0, None), method="highs")
    return -found.fun if found.status == 0 else -1.0


def _kl(bank: PriorSample, log_weight: Tensor, attainable: bool) -> Estimate:
    """KL(p || base). Where the moments are those asked for, it is the largest value of lambda . target - log Z(lambda).

    So it moves with the draws as if the multipliers did not (envelope theorem): by M (base - p) at each of M.
    """
    found = bank.kl(log_weight, bank.log_likelihood)
    if bank.exact or not attainable:
        return found
    base, prob = (
        (bank.log_prior_weight + weight).softmax(0) for weight in (bank.log_likelihood, log_weight)
    )
    return Estimate.of_influence(torch.full_like(base[0], found.value), len(base) * (base - prob))
