"""beta from a KL budget: the most reward at a KL to the prior, or the least KL at a reward.

    max E_q[r]  subject to  KL(q || p0) <= budget
    solution    p_beta = p0 exp(r/beta) prod_j f_j / Z(beta),   KL(p_beta || p0) = budget

beta is the multiplier of the constraint: d E[r] / d KL = beta along the posteriors. KL and E[r]
fall as beta grows, so either fixes beta. Brent's method solves for beta on a weighted sample of the
prior: all responses if they can be enumerated, otherwise draws.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from inference.estimate import Estimate
from inference.importance_weights import FEW, num_effective
from inference.prior_sample import PriorSample, sample_prior
from inference.roots import root
from inference.samplers.posterior import check_support
from model import AlignmentModel, Factor, LanguageModel, OtherBetaError, Prompts, Reward
from model.common.checks import boolean, finite, instance
from model.common.texts import quoted
from model.likelihood import parts_of

ROUNDING = 1e-12  # largest relative spread of a constant reward
SPAN, STEP = 60.0, 2.0
"""Range and step of log beta in the search for a bracket, around the log spread of the reward."""


class BudgetError(ValueError):
    """No beta meets the budget."""


@dataclass(frozen=True)
class KLBudget:
    """The beta that meets a budget, and the posterior at this beta.

    Attributes:
        beta: reward per nat; a number, or with `per_prompt` one for each prompt, by
            `prompts.names()`. `AlignmentModel` takes both.
        kl: KL(p_beta || p0), nats, averaged over prompts, with the standard error at fixed beta.
        reward: E[r] under p_beta, averaged over the prompts to which a reward applies, with the
            standard error at fixed beta.
        effective_sample_size: effective number of draws for p_beta, the lowest over prompts; None
            if all responses were enumerated and the result is exact.
        num_draws: number of responses to each prompt, draws or all.
    """

    beta: float | dict[str, float]
    kl: Estimate
    reward: Estimate
    effective_sample_size: float | None
    num_draws: int

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust beta; empty if there is none."""
        size = self.effective_sample_size
        if size is None or (number := num_effective(size)) >= FEW:
            return []
        few = f"{number} effective draws of {self.num_draws} represent the posterior of this budget"
        return [f"{few}, so beta is unreliable: draw more, or ask for less"]


def solve_beta(
    prior: LanguageModel,
    reward: Reward | Mapping[str, Reward],
    prompts: Prompts,
    *,
    factors: Mapping[str, Factor] | None = None,
    max_kl: float | None = None,
    min_reward: float | None = None,
    num_draws: int = 4096,
    per_prompt: bool = False,
) -> KLBudget:
    """Solve for the beta with KL(p_beta || p0) = `max_kl` or E[r] = `min_reward`.

        budget = solve_beta(prior, reward, prompts, max_kl=0.5)
        model = AlignmentModel(prior, reward, budget.beta)

    Args:
        prior, reward: p0 and r, as in `AlignmentModel`.
        prompts: N prompts, over which KL and reward are averaged. The reward is averaged over the
            prompts to which it applies.
        factors: log f_j by name, as in `AlignmentModel`; their nats count towards the budget. With
            factors that are no constraints several betas may meet `max_kl`, of which one is found.
        max_kl: KL to the prior, nats.
        min_reward: expected reward.
        num_draws: largest number of responses to each prompt. With no more responses than that,
            all are enumerated and beta is exact. Otherwise beta is consistent in `num_draws`, and
            unreliable beyond a KL of about log `num_draws`.
        per_prompt: True to solve for one beta for each prompt, which meets the budget alone.

    Returns:
        The beta, with a warning if fewer than `FEW` effective draws represent the posterior.

    Raises:
        ValueError: unless exactly one of the two budgets is given.
        OtherBetaError: if a factor was made for one beta, such as a `MarginalLikelihood`.
        BudgetError: if no beta meets the budget, with the range of possible budgets; or if no
            reward applies to any prompt, or with `per_prompt` to one of the prompts.
    """
    name, target = ("min_reward", min_reward) if max_kl is None else ("max_kl", max_kl)
    if target is None or (max_kl is not None and min_reward is not None):
        got = f"got max_kl={max_kl} and min_reward={min_reward}"
        raise ValueError(f"{got}, expected one of the two")
    target = finite(name, target)
    instance("prior", prior, LanguageModel)
    boolean("per_prompt", per_prompt)
    _check_factors(factors)
    path = _Path.of(AlignmentModel(prior, reward, 1.0, factors), prompts, num_draws)
    beta: float | dict[str, float]
    if per_prompt:
        betas = [
            _beta_of_prompt(path, n, text, name, target) for n, text in enumerate(prompts.texts)
        ]
        beta = dict(zip(prompts.names(), betas, strict=True))
        column = torch.tensor(betas, dtype=torch.float64)
        log_weight = path.log_weight(column.to(path.reward.device))
    else:
        beta = _beta_at(path, name, target)
        log_weight = path.log_weight(beta)
    size = path.sample.effective_sample_size(log_weight)
    kl, mean_reward = path.sample.kl(log_weight), path.mean_reward(log_weight)
    budget = KLBudget(beta, kl, mean_reward, size, len(log_weight))
    for warning in budget.warnings:
        warnings.warn(warning, stacklevel=2)
    return budget


def _check_factors(factors: Mapping[str, Factor] | None) -> None:
    """Refuse factors that were made for one beta."""
    if factors is not None:
        instance("factors", factors, Mapping)  # type: ignore[type-abstract]
    for name, factor in (factors or {}).items():
        if any(isinstance(getattr(part, "beta", None), int | float) for part in parts_of(factor)):
            fault = f"factor {name!r} was made for one beta, and beta is solved for"
            raise OtherBetaError(f"{fault}: leave the factor out")


@dataclass(frozen=True)
class _Path:
    """The posteriors p_beta at all betas, on a weighted sample of the prior."""

    sample: PriorSample
    """Its log likelihood is the log factors, -inf where r is -inf."""
    reward: Tensor
    """r, `[M, N]`; 0 where the response is impossible or the reward does not apply."""
    applies: Tensor
    """True for the prompts to which a reward applies, `[N]`."""

    @classmethod
    def of(cls, model: AlignmentModel, prompts: Prompts, num_draws: int) -> Self:
        """Path of a model with any beta."""
        base = AlignmentModel(model.prior, {}, 1.0, model.factors)
        sample = sample_prior(base, prompts, num_draws, purpose="solving for beta")
        reward, applies = model.reward(prompts, sample.response), model.applies(prompts)
        log_factors = sample.log_likelihood.masked_fill(reward.isneginf(), -torch.inf)
        check_support(log_factors, prompts.texts, "draw more, or loosen the constraint")
        sample = replace(sample, log_likelihood=log_factors)
        is_zero = log_factors.isneginf() | ~applies
        return cls(sample, reward.masked_fill(is_zero, 0.0), applies)

    def at_prompt(self, n: int) -> Self:
        """Path of one prompt alone."""
        names = ("response", "log_prior_weight", "log_likelihood")
        columns = {name: getattr(self.sample, name)[:, [n]] for name in names}
        sample = replace(self.sample, **columns)
        reward, applies = self.reward[:, [n]], self.applies[[n]]
        return replace(self, sample=sample, reward=reward, applies=applies)

    def log_weight(self, beta: float | Tensor) -> Tensor:
        """log p_beta(x)/p0(x) up to a constant, `[M, N]`, nats."""
        return self.reward / beta + self.sample.log_likelihood

    def mean_reward(self, log_weight: Tensor) -> Estimate:
        """E_p[r]."""
        return self.sample.mean(log_weight, self.reward, self.applies)

    def spread(self) -> float:
        """Standard deviation of r over possible responses, averaged over prompts."""
        impossible = self.sample.log_likelihood.isneginf()
        base = self.sample.log_prior_weight.masked_fill(impossible, -torch.inf).softmax(0)
        mean = (base * self.reward).sum(0)
        return (base * (self.reward - mean).square()).sum(0).mean().sqrt().item()

    def limits(self) -> tuple[Tensor, Tensor]:
        """log weights, `[M, N]`, at beta = infinity, and at beta = 0: the best response alone."""
        log_factors = self.sample.log_likelihood
        possible = ~log_factors.isneginf() & ~self.sample.log_prior_weight.isneginf()
        best = self.reward.masked_fill(~possible, -torch.inf).amax(0)
        is_best = possible & (self.reward >= best - ROUNDING * best.abs())
        return log_factors, log_factors.masked_fill(~is_best, -torch.inf)


def _beta_of_prompt(path: _Path, n: int, text: str, name: str, target: float) -> float:
    """beta of one prompt, whose error names the prompt."""
    try:
        return _beta_at(path.at_prompt(n), name, target)
    except BudgetError as error:
        raise BudgetError(f"prompt {n}, {quoted(text)}: {error}") from error


def _beta_at(path: _Path, budget: str, target: float) -> float:
    """beta at which the KL or the reward, which fall as beta grows, equals the target."""
    measure = path.sample.kl if budget == "max_kl" else path.mean_reward

    def at(log_beta: float) -> float:
        return measure(path.log_weight(math.exp(log_beta))).value

    if not bool(path.applies.any()):
        raise BudgetError("no reward applies to the prompt, so beta changes nothing: leave it out")
    spread = path.spread()
    if spread <= ROUNDING * path.reward.abs().max().item():
        fault = "the reward is the same for every response at hand"
        raise BudgetError(f"{fault}, so beta changes nothing. Check the reward")
    least, most = (measure(limit).value for limit in path.limits())
    low = high = middle = math.log(spread)
    while at(low) <= target < most and low > middle - SPAN:
        low -= STEP
    while at(high) >= target > least and high < middle + SPAN:
        high += STEP
    if not at(high) < target < at(low):
        raise _out_of_range(path, budget, target, least, most)
    return math.exp(root(lambda log_beta: at(log_beta) - target, low, high))


def _out_of_range(
    path: _Path, budget: str, target: float, least: float, most: float
) -> BudgetError:
    """Error of a target that no beta meets, with the range of the KL or of the reward."""
    exact, num_draws = path.sample.exact, len(path.reward)
    name, unit = ("KL(p || p0)", "nats") if budget == "max_kl" else ("E[r]", "of reward")
    where = "exactly" if exact else f"on {num_draws} draws of the prior"
    if target <= least:
        fix = "Every posterior is beyond it: ask for more"
    elif target >= most:
        fix = "No posterior gets there" + ("" if exact else "; draw more of the prior")
    else:
        fix = "The target is too near to an end of that range for beta to be determined"
    return BudgetError(
        f"{name} is asked to be {target:g} {unit}, and ranges from {least:.4g} (beta = infinity) "
        f"to {most:.4g} (beta = 0), {where}. {fix}"
    )
