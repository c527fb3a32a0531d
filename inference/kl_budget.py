"""A budget in place of beta: the most reward within so many nats of the prior, or the fewest nats for so much reward.

    max E_q[r]  subject to  KL(q || p0) <= budget     is solved by p_beta = p0 exp(r/beta) / Z(beta), at the beta that spends it

beta is the multiplier of the constraint: d E[r] / d KL = beta along the posteriors. KL falls and E[r] falls as beta grows, so
that either fixes it: by bisection, on every response where they are few, else on draws of the prior weighed by exp(r/beta).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from inference.estimate import Estimate
from inference.prior_bank import FEW, PriorBank, draw_prior_bank
from model import AlignmentModel, Evidence, LanguageModel, Prompts
from model.checks import boolean, finite, instance
from model.evidence import at_beta

ROUNDING = 1e-12
SPAN, STEP = 60.0, 2.0  # log beta is looked for up to so far to either side of that of the reward's spread, in such steps


class BudgetError(ValueError):
    """No beta meets the budget."""


@dataclass(frozen=True)
class Budget:
    """The beta that a budget comes to, and the posterior there.

    Attributes:
        beta: reward per nat; one for each prompt by its text, if that was asked for. Either is what `AlignmentModel` takes.
        kl: KL(p_beta || p0), nats, averaged over prompts; its error, as the next, is that of other draws at the same beta.
        reward: E[r] under p_beta.
        effective_sample_size: of the draws of the prior as draws of p_beta, the lowest over prompts; None where every response
            was listed, and all is exact.
    """

    beta: float | dict[str, float]
    kl: Estimate
    reward: Estimate
    effective_sample_size: float | None


def solve_beta(
    prior: LanguageModel,
    evidence: Evidence | Mapping[str, Evidence],
    prompts: Prompts,
    *,
    max_kl: float | None = None,
    min_reward: float | None = None,
    num_draws: int = 4096,
    per_prompt: bool = False,
) -> Budget:
    """The beta at which KL(p_beta || p0) is `max_kl`, or E[r] is `min_reward`, averaged over prompts.

    Args:
        prior: p0.
        evidence: r, as in `AlignmentModel`; hard constraints among it cost what they cost at any beta.
        prompts: N prompts.
        max_kl: nats.
        min_reward: in units of reward.
        num_draws: responses of the prior, for each prompt; where there are no more than these all are listed, and beta is
            exact. Else it is consistent as they grow, and says nothing beyond a KL of about log num_draws.
        per_prompt: a beta for each prompt, which all meet the budget on their own.

    Returns:
        The beta, and the posterior there; with a warning, if fewer than `FEW` effective draws stand for it.

    Raises:
        ValueError: if not one of the two budgets is given, or evidence depends on beta: a `Tilt`, a marginal likelihood.
        BudgetError: if no beta meets it, with what can be met.
    """
    if (max_kl is None) == (min_reward is None):
        raise ValueError(f"got max_kl={max_kl} and min_reward={min_reward}, expected one of the two")
    for name, budget in {"max_kl": max_kl, "min_reward": min_reward}.items():
        if budget is not None:
            finite(name, budget)
    instance("prior", prior, LanguageModel)
    boolean("per_prompt", per_prompt)
    model = AlignmentModel(prior, evidence, beta=1.0)
    for name, piece in model.evidence.items():
        if at_beta(piece, 2.0) is not piece:
            raise ValueError(
                f"evidence {name!r} depends on beta, so that its posteriors need not come nearer to the prior as beta grows, "
                "and a budget says nothing. Choose beta; or solve for it without this, and add it then"
            )
    if per_prompt:
        _check_texts(prompts)
    bank = draw_prior_bank(model, prompts, num_draws)

    def solve(part: PriorBank) -> float:
        if max_kl is not None:
            return _root(part.kl, max_kl, part, "KL(p || p0)", "nats")
        assert min_reward is not None
        return _root(lambda log_weight: part.mean(log_weight, part.log_evidence), min_reward, part, "E[r]", "of reward")

    if per_prompt:
        first = {text: n for n, text in reversed(list(enumerate(prompts.texts)))}
        betas = {text: solve(_column(bank, n)) for text, n in first.items()}
        found = _budget(bank, betas, torch.tensor([betas[text] for text in prompts.texts], dtype=torch.float64))
    else:
        beta = solve(bank)
        found = _budget(bank, beta, torch.tensor(beta, dtype=torch.float64))
    if found.effective_sample_size is not None and found.effective_sample_size < FEW:
        warnings.warn(
            f"{found.effective_sample_size:.0f} effective draws of {num_draws} stand for the posterior of this budget, so that "
            "its beta is hardly known: draw more, or ask for less",
            stacklevel=2,
        )
    return found


def _root(measure: Callable[[Tensor], Estimate], wanted: float, bank: PriorBank, name: str, unit: str) -> float:
    """beta at which a measure of p_beta, which falls as beta grows, is what is wanted; it takes r/beta, `[M, N]`."""

    def at(log_beta: float) -> float:
        return measure(bank.log_evidence / math.exp(log_beta)).value

    spread = _spread(bank)
    if spread <= ROUNDING * _possible(bank).abs().max().item():
        raise BudgetError("the reward is the same for every response at hand, and no beta changes anything. Check the evidence")
    least, most = (measure(limit).value for limit in _limits(bank))
    low = high = middle = math.log(spread)
    while at(low) <= wanted < most and low > middle - SPAN:
        low -= STEP
    while at(high) >= wanted > least and high < middle + SPAN:
        high += STEP
    if not at(high) < wanted < at(low):
        where = "exactly" if bank.exact else f"on {len(bank.log_evidence)} draws of the prior"
        if wanted <= least:
            fix = "Every posterior is beyond it: ask for more"
        elif wanted >= most:
            fix = "No posterior gets there" + ("" if bank.exact else "; if the prior can, draw more of it")
        else:
            fix = "It is too near to an end of that for a beta to be told from it"
        raise BudgetError(
            f"{name} is asked to be {wanted:g} {unit}, and ranges from {least:.4g} (beta = infinity) to {most:.4g} (beta = 0), "
            f"{where}. {fix}"
        )
    return math.exp(brentq(lambda log_beta: at(log_beta) - wanted, low, high, xtol=1e-13, rtol=1e-13))


def _limits(bank: PriorBank) -> tuple[Tensor, Tensor]:
    """log w, `[M, N]`, of the posteriors at beta = infinity, what is possible, and at beta = 0, the best of that."""
    reward = bank.log_evidence.masked_fill(bank.log_prior.isneginf(), -torch.inf)
    best = reward.amax(0)
    flat = torch.zeros_like(reward)
    return (
        flat.masked_fill(reward.isneginf(), -torch.inf),
        flat.masked_fill(reward < best - ROUNDING * best.abs(), -torch.inf),
    )


def _spread(bank: PriorBank) -> float:
    """The standard deviation of the reward among what is possible, over prompts: the scale on which beta matters."""
    values = _possible(bank)
    base = bank.log_prior.masked_fill(bank.log_evidence.isneginf(), -torch.inf).softmax(0)
    mean = (base * values).sum(0)
    return (base * (values - mean).square()).sum(0).mean().sqrt().item()


def _possible(bank: PriorBank) -> Tensor:
    """The reward, 0 where a response is impossible."""
    return bank.log_evidence.masked_fill(bank.log_evidence.isneginf(), 0.0)


def _check_texts(prompts: Prompts) -> None:
    """Refuse two prompts of one text but other token ids: a beta by text would meet the budget of one of them alone."""
    rows: dict[str, list[int]] = {}
    for text, row in zip(prompts.texts, prompts.rows(), strict=True):
        if rows.setdefault(text, row) != row:
            raise ValueError(
                f"two prompts are {text!r} with different token ids, and a beta for each prompt goes by its text: solve for "
                "each of them alone, or give them different texts"
            )


def _column(bank: PriorBank, n: int) -> PriorBank:
    return PriorBank(bank.response[:, [n]], bank.log_prior[:, [n]], bank.log_evidence[:, [n]], bank.exact)


def _budget(bank: PriorBank, beta: float | dict[str, float], at: Tensor) -> Budget:
    log_weight = bank.log_evidence / at.to(bank.log_evidence.device)
    return Budget(
        beta=beta,
        kl=bank.kl(log_weight),
        reward=bank.mean(log_weight, bank.log_evidence),
        effective_sample_size=bank.effective_sample_size(log_weight),
    )
