"""Distributional constraints: the distribution nearest to a base with given feature means.

GDC (Khalifa et al. 2021, arXiv 2012.11635).

    p(x) = base(x) exp(lambda . phi(x)) / Z(lambda),    E_p[phi] = target
    lambda = argmin log Z(lambda) - lambda . target     convex

The gradient of the dual is E_p[phi] - target, the Hessian Cov_p[phi]. The base is the posterior of
a model, the prior alone or with hard constraints. Expectations are sums over all responses if
there are few, otherwise self-normalised importance sampling from the prior. The multipliers are
shared by the N prompts, and the means are over all prompts.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.estimate import Estimate
from inference.importance_weights import FEW
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import Program, response_distribution
from inference.samplers.posterior import check_support
from model import Prompts, ResponseDistribution, Reward, Tilt
from model.common.checks import finite, function, instance
from model.likelihood import (
    ImpossibleResponseError,
    LikelihoodError,
    Values,
    check_made_for,
    values_of,
)

LIMIT = 30.0
"""Largest multiplier of an unattainable target, nats per standard deviation of the feature."""
MARGIN = 1e-9  # share of the base that an attainable target leaves room for
POLISH = 3  # number of plain Newton steps at the end, where the dual is flat to rounding
GRADIENT = 1e-10  # tolerance of the dual's gradient, in standard deviations of a feature
CONVERGED = 1e-6  # largest error of a moment, in standard deviations of the feature
ROUNDING = 1e-12  # largest relative range of a constant feature


class UnattainableMomentsError(ValueError):
    """No distribution over the responses at hand has the given moments."""


@dataclass(frozen=True)
class MomentMatch:
    """Fitted multipliers and their moments, by the name of the feature.

    Attributes:
        multipliers: lambda, nats per unit of the feature.
        standard_errors: errors of the multipliers; 0 if all responses were enumerated.
        targets: E[phi] as given.
        moments: E[phi] under p on the responses at hand, with the errors at fixed multipliers;
            averaged over the prompts to which the feature applies.
        base_moments: E[phi] under the base.
        kl: KL(p || base), nats; the error includes that of the multipliers.
        effective_sample_size: lowest over prompts; None if all responses were enumerated.
        attainable: True if the targets are means of a distribution with the base's support.
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
        """The factor exp(lambda . phi); an `UnattainableMomentsError` if there is none."""
        if not self.attainable:
            raise UnattainableMomentsError(self.warning)
        return Tilt(self.features, self.multipliers)

    @property
    def warning(self) -> str:
        """Reason to distrust the fit; empty if there is none."""
        size = self.effective_sample_size
        if not self.attainable:
            reached = ", ".join(
                f"{name} {target:g} (reached {self.moments[name].value:.4g})"
                for name, target in self.targets.items()
            )
            return (
                f"no finite multipliers give the moments {reached} on these responses. A mean at "
                "the end of its range is a hard constraint: use `Constraint`. Otherwise ask for "
                "less, or draw more"
            )
        if size is not None and size < FEW:
            fault = f"{size:.0f} effective draws represent the distribution"
            fix = "draw more, or ask for less"
            return f"{fault}, so the moments may be far off on other draws: {fix}"
        return ""

    def __str__(self) -> str:
        lines = []
        for name, multiplier in self.multipliers.items():
            moments = f"{self.base_moments[name]} in the base, {self.moments[name]} attained"
            target = f"target {self.targets[name]:g}"
            error = self.standard_errors[name]
            lines.append(f"{name}: {moments}, {target}, multiplier {multiplier:.4f} ± {error:.4f}")
        size = self.effective_sample_size
        accuracy = "exact" if size is None else f"effective sample size {size:.0f}"
        return "\n".join([*lines, f"KL to the base {self.kl}, {accuracy}", self.warning]).rstrip()


def match_moments(
    model: Program,
    prompts: Prompts,
    features: Mapping[str, Reward],
    targets: Mapping[str, float],
    *,
    num_draws: int = 4096,
) -> MomentMatch:
    """Fit the multipliers by a trust-region Newton method on the dual.

        match = match_moments(model, prompts, {"positive": positive}, {"positive": 0.5})
        target = AlignmentModel(prior, {}, 1.0, {"moments": match.factor})

    Args:
        model: the base, a Pyro program with a prior and factors, which may be -inf.
        prompts: N prompts.
        features: phi, by name.
        targets: E[phi], the mean over the prompts to which the feature applies, by the same names.
        num_draws: largest number of responses to each prompt. Up to that number, all are enumerated
            and the fit is exact. Beyond, the fit is consistent.

    Returns:
        The fit. Warns if fewer than `FEW` effective draws represent p, and if the targets are
        unattainable, where the multipliers end at `LIMIT`.

    Raises:
        ValueError: if the names differ, if there is no feature, or if a target is not finite.
        LikelihoodError: if a feature is NaN or infinite.
        OtherLanguageModelError: if a feature was made for another language model than the prior.
        NoSupportError: if all responses to a prompt are impossible.
        RuntimeError: if the multipliers of attainable targets do not converge.
    """
    instance("features", features, Mapping)  # type: ignore[type-abstract]
    instance("targets", targets, Mapping)  # type: ignore[type-abstract]
    if not features or features.keys() != targets.keys():
        got = f"features are {sorted(features)} and targets {sorted(targets)}"
        raise ValueError(f"{got}, expected the same names, at least one")
    prior = response_distribution(model, prompts, role="model")
    for name, feature in features.items():
        function(f"the feature {name!r} of features", feature, why="of prompts and responses")
        finite(f"the target of {name!r}", targets[name], why="it is a mean")
        if isinstance(prior, ResponseDistribution):
            check_made_for(f"feature {name!r}", feature, prior.space)
    targets = {name: float(targets[name]) for name in features}
    sample = sample_prior(model, prompts, num_draws, purpose="matching moments")
    log_likelihood, device = sample.log_likelihood, sample.log_likelihood.device
    check_support(log_likelihood, prompts.texts, "draw more, or loosen the constraint")
    values = {name: _values(name, features[name], prompts, sample.response) for name in features}
    # a constant feature of the target's value moves no mean: so is a feature that does not apply
    filled = [phi.masked_fill(~applies, targets[name]) for name, (phi, applies) in values.items()]
    phi = torch.stack(filled).cpu()
    log_base = (sample.log_prior_weight + log_likelihood).log_softmax(0).cpu()  # [M, N]
    target = torch.tensor(list(targets.values()), dtype=torch.float64)
    attainable = _room(phi, log_base, target) > MARGIN
    dual = _Dual(phi, log_base, target)
    multipliers = dual.solve(attainable)
    log_weight = torch.einsum("f,fmn->mn", multipliers, phi).to(device) + log_likelihood
    errors = dual.standard_errors(multipliers, sample.exact)
    match = MomentMatch(
        multipliers=dict(zip(features, multipliers.tolist(), strict=True)),
        standard_errors=dict(zip(features, errors, strict=True)),
        targets=targets,
        moments={name: sample.mean(log_weight, *part) for name, part in values.items()},
        base_moments={name: sample.mean(log_likelihood, *part) for name, part in values.items()},
        kl=_kl(sample, log_weight, attainable),
        effective_sample_size=sample.effective_sample_size(log_weight),
        attainable=attainable,
        features=features,
    )
    if match.warning:
        warnings.warn(match.warning, stacklevel=2)
    return match


def _values(name: str, feature: Reward, prompts: Prompts, response: Tensor) -> Values:
    """Values of a feature, `[M, N]`, all finite, and the prompts to which the feature applies."""
    try:
        return values_of(f"feature {name!r}", feature, prompts, response)
    except ImpossibleResponseError:
        fix = "For a constraint use the constrained feature, or 1 and 0"
        raise LikelihoodError(
            f"feature {name!r} is -inf for some response, and has no mean. {fix}"
        ) from None


class _Dual:
    """log Z(lambda) - lambda . target, averaged over prompts, for features of unit variance.

    Takes features `[F, M, N]`, log probabilities of the base `[M, N]`, and target means `[F]`.
    """

    def __init__(self, phi: Tensor, log_base: Tensor, target: Tensor) -> None:
        base = log_base.exp()
        impossible = base == 0
        mean = (base * phi).sum(1, keepdim=True)  # [F, 1, N]
        deviation = (base * (phi - mean).square()).sum(1).mean(1).sqrt()  # [F]
        highest = phi.masked_fill(impossible, -torch.inf).amax(1)
        extent = (highest - phi.masked_fill(impossible, torch.inf).amin(1)).amax(1)
        self.rounding = ROUNDING * phi.masked_fill(impossible, 0.0).abs().amax((1, 2))
        self.free = extent > self.rounding  # a constant feature has no multiplier
        scale = torch.where(deviation > 0, deviation, extent)
        self.scale = torch.where(self.free, scale, 1.0)
        # centred on the target: the gradient is a mean of these
        centred = (phi - target[:, None, None]) / self.scale[:, None, None]
        self.phi = torch.where(self.free[:, None, None], centred, 0.0)
        self.log_base = log_base

    def _log_z_and_prob(self, scaled: NDArray) -> tuple[Tensor, Tensor]:
        """log Z `[N]` and p `[M, N]` at scaled multipliers."""
        log_joint = self.log_base + torch.einsum("f,fmn->mn", torch.from_numpy(scaled), self.phi)
        return log_joint.logsumexp(0), log_joint.softmax(0)

    def value_and_gradient(self, scaled: NDArray) -> tuple[float, NDArray]:
        log_z, prob = self._log_z_and_prob(scaled)
        return log_z.mean().item(), (prob * self.phi).sum(1).mean(1).numpy()

    def hessian(self, scaled: NDArray) -> NDArray:
        """Covariance of the features within a prompt, averaged over prompts, `[F, F]`."""
        _, prob = self._log_z_and_prob(scaled)
        mean = (prob * self.phi).sum(1)  # [F, N]
        second = torch.einsum("mn,fmn,gmn->fgn", prob, self.phi, self.phi)
        return (second - mean[:, None] * mean[None]).mean(-1).numpy()

    def solve(self, attainable: bool) -> Tensor:
        """The minimum, or the best within `LIMIT`, `[F]`, nats per unit of the feature."""
        solution = np.zeros(len(self.phi))
        dual = self.value_and_gradient
        if attainable:
            method = {"hess": self.hessian, "method": "trust-exact"}
            options = {"gtol": GRADIENT, "maxiter": 1000}
            solution = scipy.optimize.minimize(
                dual, solution, jac=True, **method, options=options
            ).x
            for _ in range(POLISH):
                solution = solution - np.linalg.pinv(self.hessian(solution)) @ dual(solution)[1]
            scale = self.scale.numpy()
            error = np.abs(dual(solution)[1]) * scale
            spread = np.sqrt(np.diag(self.hessian(solution)).clip(min=0)) * scale
            if (error > CONVERGED * spread + self.rounding.numpy()).any():
                fault = (
                    f"the moments are off by up to {error.max():.1e}. Ask for less, or draw more"
                )
                raise RuntimeError(f"the multipliers did not converge: {fault}")
        else:
            bounds = [(-LIMIT, LIMIT)] * len(solution)
            solution = scipy.optimize.minimize(
                dual, solution, jac=True, bounds=bounds, method="L-BFGS-B"
            ).x
        return torch.where(self.free, torch.from_numpy(solution) / self.scale, 0.0)

    def standard_errors(self, multipliers: Tensor, exact: bool) -> list[float]:
        """Standard errors of the multipliers, by the delta method."""
        if exact:
            return [0.0] * len(multipliers)
        scaled = (multipliers * self.scale).numpy()
        _, prob = self._log_z_and_prob(scaled)
        num_draws, num_prompts = prob.shape
        residual = self.phi - (prob * self.phi).sum(1, keepdim=True)
        influence = num_draws * prob * residual / num_prompts  # [F, M, N]
        square = torch.einsum("fmn,gmn->fg", influence, influence).numpy()
        noise = square / (num_draws - 1) / num_draws
        inverse = np.linalg.pinv(self.hessian(scaled))
        return (np.sqrt(np.diag(inverse @ noise @ inverse)) / self.scale.numpy()).tolist()


def _room(phi: Tensor, log_base: Tensor, target: Tensor) -> float:
    """The largest t with target = t E_base[phi] + (1 - t) times a mean of phi; below 0 for none.

    Above 0 the target is inside the attainable set, and the multipliers are finite; at 0 it is on
    the edge. A linear program in the probabilities of the different values of phi at each prompt.
    """
    num_prompts = log_base.shape[1]
    possible = log_base > -torch.inf
    values = [phi[:, possible[:, n], n].T.unique(dim=0) for n in range(num_prompts)]  # [U, F] each
    base_mean = (log_base.exp() * phi).sum(1).mean(1)  # [F]
    rows = torch.cat(values)  # [C, F]
    scale = rows.abs().amax(0).clamp(min=1e-12)
    ones = torch.ones(num_prompts, 1, dtype=torch.float64)
    one_each = torch.block_diag(*(torch.ones(1, len(part)).double() for part in values))  # [N, C]
    moments = torch.cat([(rows / scale).T / num_prompts, (base_mean / scale)[:, None]], 1)
    equal = torch.cat([moments, torch.cat([one_each, ones], 1)])
    right = torch.cat([target / scale, ones[:, 0]])
    cost = np.zeros(equal.shape[1])
    cost[-1] = -1.0
    program = scipy.optimize.linprog(cost, A_eq=equal.numpy(), b_eq=right.numpy(), method="highs")
    return -program.fun if program.status == 0 else -1.0


def _kl(sample: PriorSample, log_weight: Tensor, attainable: bool) -> Estimate:
    """KL(p || base), with the error of fitted multipliers.

    At the target the KL is the largest value of lambda . target - log Z(lambda). By the envelope
    theorem a draw moves the KL as if lambda were fixed, by M (base - p).
    """
    kl = sample.kl(log_weight, sample.log_likelihood)
    if sample.exact or not attainable:
        return kl
    base = (sample.log_prior_weight + sample.log_likelihood).softmax(0)
    prob = (sample.log_prior_weight + log_weight).softmax(0)
    value = torch.full_like(base[0], kl.value)
    return Estimate.of_influence(value, len(base) * (base - prob))
