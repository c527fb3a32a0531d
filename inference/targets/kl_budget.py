"""KL budget in place of beta: the most reward within a number of nats of the prior, or the fewest nats for a given reward.

    max E_q[r]  subject to  KL(q || p0) <= budget     is solved by p_beta = p0 exp(r/beta) / Z(beta), at the beta that spends it

beta is the multiplier of the constraint: d E[r] / d KL = beta along the posteriors. KL and E[r] fall as beta grows, so that
either fixes beta. The root is bracketed and then found by Brent's method, on all responses if they can be enumerated,
otherwise on draws of the prior weighted by exp(r/beta). With factors, p_beta = p0 exp(r/beta) prod_j f_j / Z(beta).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from scipy.optimize import brentq
from torch import Tensor

from inference.estimate import Estimate
from inference.prior_sample import FEW, PriorSample, sample_prior
from inference.samplers.posterior import check_support
from model import AlignmentModel, Factor, LanguageModel, OtherBetaError, Prompts, Reward
from model.common.checks import boolean, finite, instance
from model.likelihood import parts_of

ROUNDING = 1e-12
SPAN, STEP = 60.0, 2.0  # log beta is bracketed within SPAN of the log spread of the reward


class BudgetError(ValueError):
    """No beta meets the budget."""


@dataclass(frozen=True)
class Budget:
    """The beta that meets a budget, and the posterior at this beta.

    Attributes:
        beta: reward per nat; one for each prompt, by its text, if `per_prompt` was asked for. `AlignmentModel` takes either.
        kl: KL(p_beta || p0), nats, averaged over prompts; its error is that of other draws at the same beta.
        reward: E[r] under p_beta; its error likewise.
        effective_sample_size: effective number of prior draws weighted for p_beta, the lowest over prompts; None if all
            responses were enumerated and the result is exact.
    """

    beta: float | dict[str, float]
    kl: Estimate
    reward: Estimate
    effective_sample_size: float | None


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
) -> Budget:
    """beta at which KL(p_beta || p0) equals `max_kl`, or E[r] equals `min_reward`, averaged over prompts.

    Args:
        prior: p0.
        reward: r, as in `AlignmentModel`.
        prompts: N prompts.
        factors: log f_j by name, as in `AlignmentModel`; the nats that they cost count towards the budget. With other factors
            than constraints several betas may meet `max_kl`; one of them is returned.
        max_kl: nats.
        min_reward: in units of reward.
        num_draws: responses of the prior for each prompt. If there are no more responses than `num_draws`, all are enumerated
            and beta is exact. Otherwise beta is consistent as draws grow, and unreliable beyond a KL of about log num_draws.
        per_prompt: solve for one beta for each prompt, each of which meets the budget on its own.

    Returns:
        The beta and the posterior there. Warns if fewer than `FEW` effective draws represent the posterior.

    Raises:
        ValueError: unless exactly one of the two budgets is given.
        OtherBetaError: if a factor was made for one beta, such as a `MarginalLikelihood`.
        BudgetError: if no beta meets the budget, with the range that can be met.
    """
    if (max_kl is None) == (min_reward is None):
        raise ValueError(
            f"got max_kl={max_kl} and min_reward={min_reward}, expected one of the two"
        )
    for name, budget in {"max_kl": max_kl, "min_reward": min_reward}.items():
        if budget is not None:
            finite(name, budget)
    instance("prior", prior, LanguageModel)
    boolean("per_prompt", per_prompt)
    if per_prompt:
        _check_texts(prompts)
    for name, factor in (factors or {}).items():
        if any(isinstance(getattr(part, "beta", None), int | float) for part in parts_of(factor)):
            raise OtherBetaError(
                f"factor {name!r} was made for one beta, and beta is solved for: leave the factor "
                "out"
            )
    path = _Path.of(AlignmentModel(prior, reward, 1.0, factors), prompts, num_draws)

    def solve(path: _Path) -> float:
        if max_kl is not None:
            return _root(path, path.kl, max_kl, "KL(p || p0)", "nats")
        assert min_reward is not None
        return _root(path, path.mean_reward, min_reward, "E[r]", "of reward")

    if per_prompt:
        first = {text: n for n, text in reversed(list(enumerate(prompts.texts)))}
        betas = {text: solve(path.at_prompt(n)) for text, n in first.items()}
        beta_of_prompt = torch.tensor([betas[text] for text in prompts.texts], dtype=torch.float64)
        result = _budget(path, betas, beta_of_prompt)
    else:
        beta = solve(path)
        result = _budget(path, beta, torch.tensor(beta, dtype=torch.float64))
    if result.effective_sample_size is not None and result.effective_sample_size < FEW:
        warnings.warn(
            f"{result.effective_sample_size:.0f} effective draws of {num_draws} represent the posterior of this budget, so "
            "that its beta is hardly known: draw more, or ask for less",
            stacklevel=2,
        )
    return result


@dataclass(frozen=True)
class _Path:
    """The posteriors p_beta at all betas, on a weighted sample of the prior.

    Attributes:
        bank: the sample, with the log factors as its log likelihood; -inf where the reward is -inf.
        reward: r, `[M, N]`; 0 where the response is impossible.
    """

    bank: PriorSample
    reward: Tensor

    @classmethod
    def of(cls, model: AlignmentModel, prompts: Prompts, num_draws: int) -> Self:
        """The path of a model, whatever its beta."""
        base = sample_prior(AlignmentModel(model.prior, {}, 1.0, model.factors), prompts, num_draws)
        reward = model.reward(prompts, base.response)
        log_factors = base.log_likelihood.masked_fill(reward.isneginf(), -torch.inf)
        check_support(log_factors, prompts.texts, "draw more, or loosen the constraint")
        bank = PriorSample(base.response, base.log_prior_weight, log_factors, base.exact)
        return cls(bank, reward.masked_fill(log_factors.isneginf(), 0.0))

    def at_prompt(self, n: int) -> Self:
        """The path of one prompt alone."""
        response, log_prior, log_factors = (
            column[:, [n]]
            for column in (self.bank.response, self.bank.log_prior_weight, self.bank.log_likelihood)
        )
        bank = PriorSample(response, log_prior, log_factors, self.bank.exact)
        return replace(self, bank=bank, reward=self.reward[:, [n]])

    def log_weight(self, beta: float | Tensor) -> Tensor:
        """log of p_beta over p0, up to a constant, `[M, N]`, nats."""
        return self.reward / beta + self.bank.log_likelihood

    def kl(self, log_weight: Tensor) -> Estimate:
        """KL(p || p0), nats."""
        return self.bank.kl(log_weight)

    def mean_reward(self, log_weight: Tensor) -> Estimate:
        """E_p[r]."""
        return self.bank.mean(log_weight, self.reward)

    def spread(self) -> float:
        """Standard deviation of the reward over possible responses, averaged over prompts: the scale on which beta matters."""
        impossible = self.bank.log_likelihood.isneginf()
        base = self.bank.log_prior_weight.masked_fill(impossible, -torch.inf).softmax(0)
        mean = (base * self.reward).sum(0)
        return (base * (self.reward - mean).square()).sum(0).mean().sqrt().item()

    def limits(self) -> tuple[Tensor, Tensor]:
        """log weights, `[M, N]`, of the posteriors at beta = infinity, and at beta = 0: the best of the possible responses."""
        possible = ~self.bank.log_likelihood.isneginf() & ~self.bank.log_prior_weight.isneginf()
        best = self.reward.masked_fill(~possible, -torch.inf).amax(0)
        is_best = possible & (self.reward >= best - ROUNDING * best.abs())
        log_factors = self.bank.log_likelihood
        return log_factors, log_factors.masked_fill(~is_best, -torch.inf)


def _root(
    path: _Path, measure: Callable[[Tensor], Estimate], target: float, name: str, unit: str
) -> float:
    """beta at which a measure of p_beta equals the target; the measure takes log weights, and falls as beta grows."""

    def at(log_beta: float) -> float:
        return measure(path.log_weight(math.exp(log_beta))).value

    spread = path.spread()
    if spread <= ROUNDING * path.reward.abs().max().item():
        raise BudgetError(
            "the reward is the same for every response at hand, and no beta changes anything. Check the reward"
        )
    least, most = (measure(limit).value for limit in path.limits())
    low = high = middle = math.log(spread)
    while at(low) <= target < most and low > middle - SPAN:
        low -= STEP
    while at(high) >= target > least and high < middle + SPAN:
        high += STEP
    if not at(high) < target < at(low):
        bank = path.bank
        where = "exactly" if bank.exact else f"on {len(bank.log_prior_weight)} draws of the prior"
        if target <= least:
            fix = "Every posterior is beyond it: ask for more"
        elif target >= most:
            fix = "No posterior gets there" + (
                "" if bank.exact else "; if the prior can, draw more of it"
            )
        else:
            fix = "The target is too near to an end of that range for beta to be determined"
        raise BudgetError(
            f"{name} is asked to be {target:g} {unit}, and ranges from {least:.4g} (beta = infinity) to {most:.4g} (beta = 0), "
            f"{where}. {fix}"
        )
    return math.exp(
        brentq(lambda log_beta: at(log_beta) - target, low, high, xtol=1e-13, rtol=1e-13)
    )


def _check_texts(prompts: Prompts) -> None:
    """Refuse two prompts of one text but other token ids: a beta by text would meet the budget of only one of them."""
    rows: dict[str, list[int]] = {}
    for text, row in zip(prompts.texts, prompts.rows(), strict=True):
        if rows.setdefault(text, row) != row:
            raise ValueError(
                f"two prompts are {text!r} with different token ids, and a beta for each prompt goes by its text: solve for "
                "each of them alone, or give them different texts"
            )


def _budget(path: _Path, beta: float | dict[str, float], beta_of_prompt: Tensor) -> Budget:
    log_weight = path.log_weight(beta_of_prompt.to(path.reward.device))
    return Budget(
        beta=beta,
        kl=path.kl(log_weight),
        reward=path.mean_reward(log_weight),
        effective_sample_size=path.bank.effective_sample_size(log_weight),
    )
