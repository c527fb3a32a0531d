"""Distributional constraints: the distribution nearest to a base with given feature means.

GDC (Khalifa et al. 2021, arXiv 2012.11635).

    p(x) = base(x) exp(lambda . phi(x)) / Z(lambda),    E_p[phi] = target
    lambda = argmin log Z(lambda) - lambda . target     `MomentDual`

The base is the posterior of a model, the prior alone or with hard constraints. Expectations are
sums over all responses if there are few, otherwise self-normalised importance sampling from the
prior. The multipliers are shared by the N prompts, and the means are over all prompts.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.importance_weights import FEW, num_effective
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import Program, response_distribution
from inference.samplers.posterior import check_support
from inference.targets.moment_dual import MomentDual, room
from model import Prompts, ResponseDistribution, Reward, Tilt
from model.common.checks import finite, function, instance
from model.likelihood import ImpossibleResponseError, LikelihoodError, check_made_for
from model.values import Values, values_of

MARGIN = 1e-9  # share of the base that an attainable target leaves room for


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
            raise UnattainableMomentsError(*self.warnings)
        return Tilt(self.features, self.multipliers)

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the fit; empty if there is none."""
        size = self.effective_sample_size
        if not self.attainable:
            reached = ", ".join(
                f"{name} {target:g} (reached {self.moments[name].value:.4g})"
                for name, target in self.targets.items()
            )
            return [
                f"no finite multipliers give the moments {reached} on these responses. A mean at "
                "the end of its range is a hard constraint: use `Constraint`. Otherwise ask for "
                "less, or draw more"
            ]
        if size is not None and (number := num_effective(size)) < FEW:
            fault = f"{number} effective draws represent the distribution"
            fix = "draw more, or ask for less"
            return [f"{fault}, so the moments may be far off on other draws: {fix}"]
        return []

    def __str__(self) -> str:
        lines = []
        for name, multiplier in self.multipliers.items():
            moments = f"{self.base_moments[name]} in the base, {self.moments[name]} attained"
            target = f"target {self.targets[name]:g}"
            error = self.standard_errors[name]
            lines.append(f"{name}: {moments}, {target}, multiplier {multiplier:.4f} ± {error:.4f}")
        size = self.effective_sample_size
        accuracy = "exact" if size is None else f"effective sample size {size:.0f}"
        return "\n".join([*lines, f"KL to the base {self.kl}, {accuracy}", *self.warnings])


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
        unattainable, where the multipliers end at `LIMIT` of `moment_dual.py`.

    Raises:
        ValueError: if the names differ, if there is no feature, or if a target is not finite.
        LikelihoodError: if a feature is NaN or infinite.
        OtherLanguageModelError: if a feature was made for another language model than the prior.
        NoSupportError: if all responses to a prompt are impossible.
        RuntimeError: if the multipliers of attainable targets do not converge.
    """
    targets = _checked_targets(model, prompts, features, targets)
    sample = sample_prior(model, prompts, num_draws, purpose="matching moments")
    log_likelihood, device = sample.log_likelihood, sample.log_likelihood.device
    check_support(log_likelihood, prompts.texts, "draw more, or loosen the constraint")
    values = {name: _values(name, features[name], prompts, sample.response) for name in features}
    # a constant feature of the target's value moves no mean: so is a feature that does not apply
    filled = [phi.masked_fill(~applies, targets[name]) for name, (phi, applies) in values.items()]
    phi = torch.stack(filled).cpu()
    log_base = (sample.log_prior_weight + log_likelihood).log_softmax(0).cpu()  # [M, N]
    target = torch.tensor(list(targets.values()), dtype=torch.float64)
    attainable = room(phi, log_base, target) > MARGIN
    dual = MomentDual(phi, log_base, target)
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
    for warning in match.warnings:
        warnings.warn(warning, stacklevel=2)
    return match


def _checked_targets(
    model: Program, prompts: Prompts, features: Mapping[str, Reward], targets: Mapping[str, float]
) -> dict[str, float]:
    """Targets in the order of the features, which are checked too."""
    instance("features", features, Mapping)  # type: ignore[type-abstract]
    instance("targets", targets, Mapping)  # type: ignore[type-abstract]
    if not features or features.keys() != targets.keys():
        got = f"features are {sorted(features)} and targets {sorted(targets)}"
        raise ValueError(f"{got}, expected the same names, at least one")
    prior = response_distribution(model, prompts, role="model")
    for name, feature in features.items():
        function(f"the feature {name!r} of features", feature, why="of prompts and responses")
        if isinstance(prior, ResponseDistribution):
            check_made_for(f"feature {name!r}", feature, prior.space)
    return {
        name: finite(f"the target of {name!r}", targets[name], why="it is a mean")
        for name in features
    }


def _values(name: str, feature: Reward, prompts: Prompts, response: Tensor) -> Values:
    """Values of a feature, `[M, N]`, all finite, and the prompts to which the feature applies."""
    try:
        return values_of(f"feature {name!r}", feature, prompts, response)
    except ImpossibleResponseError:
        fix = "For a constraint use the constrained feature, or 1 and 0"
        raise LikelihoodError(
            f"feature {name!r} is -inf for some response, and has no mean. {fix}"
        ) from None


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
