"""KL to the posterior of a success, split into the rate of success and the diversity lost.

    KL(q || p*) = KL(Ber(q) || Ber(p*)) + sum_c q(c) KL(q(. | c) || p0(. | c)),   c: success or not

for a reward of 1 or 0 (the chain rule of KL): p* has the ratios of the prior within successes and
within failures. The second term, the diversity lost, is KL(q || p0) - KL(Ber(q) || Ber(p0)),
whatever beta. The rates are of success under q, p* and p0.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inference import Enumeration, Estimate, Program, log_guide_at, response_distribution
from inference.diagnostics.pass_at_k import exact_pass_at_k, pass_at_k
from inference.enumeration import kl
from model import AlignmentModel, Prompts


class Success(NamedTuple):
    """Numbers of one distribution: nats, shares and probabilities, averaged over prompts."""

    rate: Estimate
    kl: Estimate
    """KL(q || p*)."""
    bernoulli: Estimate
    """KL of the rates of success under q and p*."""
    lost: Estimate
    """Diversity lost, `kl` minus `bernoulli`."""
    pass_at_k: dict[int, Estimate]


class Draws(NamedTuple):
    """M draws of a distribution q to each of N prompts.

    Attributes:
        success: `[M, N]`, 1 for a success and 0 for a failure, float64.
        log_ratio: `[M, N]`, log q - log p0, nats.
    """

    success: Tensor
    log_ratio: Tensor


@torch.no_grad()
def draw(
    program: Program, model: AlignmentModel, prompts: Prompts, num_draws: int, chunk: int = 64
) -> Draws:
    """Draw from a guide or the prior, and judge the responses by the reward of the model."""
    distribution, parts = response_distribution(program, prompts), []
    for start in range(0, num_draws, chunk):
        response = distribution.sample(torch.Size([min(chunk, num_draws - start)]))
        log_guide = log_guide_at(program, prompts, response).double()
        log_ratio = log_guide - model.prior(prompts).log_prob(response)
        parts.append((model.reward(prompts, response), log_ratio))
    success, log_ratio = map(torch.cat, zip(*parts, strict=True))
    return Draws(success, log_ratio)


def exact(
    log_prob: Tensor, truth: Enumeration, success: Tensor, ks: tuple[int, ...]
) -> tuple[Success, float]:
    """Exact numbers of a distribution, log q `[S, N]`, and the largest error of the chain rule.

    `success` is `[S, N]`. The diversity lost is the mean KL within successes and within failures.
    """
    prob, total = log_prob.exp(), kl(log_prob, truth.log_posterior)
    rate, lost, outcomes = (success * prob).sum(0), torch.zeros_like(total), []
    for members in (success == 1, success == 0):
        log_q, log_p, log_best = (
            each.masked_fill(~members, -torch.inf)
            for each in (log_prob, truth.log_prior, truth.log_posterior)
        )
        within = kl(log_q.log_softmax(0), log_p.log_softmax(0))
        lost = lost + log_q.logsumexp(0).exp() * within
        outcomes.append(torch.stack([log_q, log_best]).logsumexp(1))  # [2, N]
    # in logs: at a small beta p* has failures that 1 - rate would round to none
    bernoulli = kl(*torch.stack(outcomes, 1))
    passes = {k: Estimate.exact(exact_pass_at_k(success, prob, k)) for k in ks}
    error = (total - bernoulli - lost).abs().max().item()
    numbers = [Estimate.exact(each) for each in (rate, total, bernoulli, lost)]
    return Success(numbers[0], numbers[1], numbers[2], numbers[3], passes), error


def estimated(guide: Draws, prior: Draws, beta: float, ks: tuple[int, ...]) -> Success:
    """Estimates from draws of q and of p0 to the same N prompts, with joint standard errors.

    Rates and pass@k are unbiased. KLs are consistent, and means over the prompts with successes and
    failures of p0, without which the prior's rate is unknown; NaN without such a prompt.
    """
    passes = {k: pass_at_k(guide.success, k) for k in ks}
    of_all, mixed = Estimate.of_share(guide.success), has_both(prior.success)
    if not bool(mixed.any()):
        unknown = Estimate(math.nan, math.nan)
        return Success(of_all, unknown, unknown, unknown, passes)
    guide, prior = (Draws(*(part[:, mixed] for part in draws)) for draws in (guide, prior))
    rate, base = (draws.success.mean(0) for draws in (guide, prior))
    # in logs, since exp(1/beta) overflows at a small beta
    log_z = torch.logaddexp(torch.log1p(-base), base.log() + 1 / beta)
    kl_prior, bernoulli_prior = guide.log_ratio.mean(0), bernoulli_kl(rate, base)
    from_prior = log_z - rate / beta  # KL to p* minus KL to p0, of responses and of rates alike
    # changes by each draw: of the mean log ratio, of the rate, and of the prior's rate
    d_log_ratio, d_rate = guide.log_ratio - kl_prior, guide.success - rate
    d_base = prior.success - base
    slope = _logit(rate) - _logit(base)
    base_slope = (base - rate) / (base * (1 - base))
    z_slope = (1 / beta - log_z).exp() - (-log_z).exp()
    of_kl = d_log_ratio - d_rate / beta, z_slope * d_base
    of_rates = (slope - 1 / beta) * d_rate, (base_slope + z_slope) * d_base
    of_lost = d_log_ratio - slope * d_rate, -base_slope * d_base
    kl = Estimate.of_influence(kl_prior + from_prior, *of_kl)
    bernoulli = Estimate.of_influence(bernoulli_prior + from_prior, *of_rates)
    lost = Estimate.of_influence(kl_prior - bernoulli_prior, *of_lost)
    return Success(of_all, kl, bernoulli, lost, passes)


def has_both(success: Tensor) -> Tensor:
    """True for the prompts with a success and a failure among the draws `[M, N]`, `[N]`."""
    return success.amax(0) > success.amin(0)


def bernoulli_kl(rate: Tensor, other: Tensor) -> Tensor:
    """KL(Ber(rate) || Ber(other)), nats; infinite if `other` excludes a possible outcome."""
    successes = torch.xlogy(rate, rate) - torch.xlogy(rate, other)
    failures = torch.xlogy(1 - rate, 1 - rate) - torch.xlogy(1 - rate, 1 - other)
    return successes + failures


def _logit(rate: Tensor) -> Tensor:
    """Log-odds, finite: a rate of 0 or 1 has no influence, since all draws agree."""
    return rate.clamp(1e-12, 1 - 1e-12).logit()
