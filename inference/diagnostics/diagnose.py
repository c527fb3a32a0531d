"""How far a guide is from the posterior, on a model too large to enumerate.

    ELBO         = E_q[log w],  w = p0(x) exp(r(x)/beta) / q(x)                     unbiased
    bound        = E[log mean_K w] <= log Z                                          Burda et al. 2015, arXiv 1509.00519
    Z            = E_p0[exp(r/beta)]                                                 unbiased; its log is biased low
    KL(q || p*)  = log Z - ELBO
    KL(p* || q)  = E_p*[log p0 + r/beta - log q] - log Z                             p* by rejection from the prior

All are of whole responses, in nats, averaged over prompts, with standard errors that take the prompts as given. None is
clamped: an estimate of a divergence near 0 may be negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from inference.estimate import Estimate, log_mean, log_mean_exp
from inference.importance_weights import effective_sample_size, pareto_k
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import Program, joint_at, log_guide_at, response_distribution
from inference.response_site import SameResponses, check_arguments
from model import Prompts, ResponseDistribution
from model.common.checks import instance, whole_number
from model.common.thread_lock import one_thread


@dataclass(frozen=True)
class Diagnostics:
    """The distance of a guide from the posterior, and what it is made of. Nats, per prompt, but for the last four.

    Attributes:
        elbo: E_q[log p0 + r/beta - log q].
        log_likelihood: E_q[r]/beta; times beta it is the expected reward.
        kl_guide_prior: KL(q || p0).
        entropy: of q.
        log_z_bound: an importance-weighted lower bound on log Z, with all samples in one mean.
        log_z: from the prior draws.
        kl_guide_posterior: KL(q || p*); infinite where the guide drew the impossible, NaN where only the prior's draws did, all
            of them for a prompt, so that log Z is not known.
        kl_posterior_guide: KL(p* || q); None where no bound on the evidence is known or nothing was accepted.
        acceptance: share of prior draws accepted as exact posterior samples; None where no bound is known.
        effective_sample_size: (sum w)^2 / sum w^2 of the guide's samples as importance samples, the lowest over prompts.
        pareto_k: shape of the tail of w, the highest over prompts; above 0.7 importance sampling from q is not to be trusted
            (Vehtari et al. 2015, arXiv 1507.02646).
        distinct_2: different pairs of neighbouring tokens, as a share of all, within a prompt.
    """

    elbo: Estimate
    log_likelihood: Estimate
    kl_guide_prior: Estimate
    entropy: Estimate
    log_z_bound: Estimate
    log_z: Estimate
    kl_guide_posterior: Estimate
    kl_posterior_guide: Estimate | None
    acceptance: float | None
    effective_sample_size: float
    pareto_k: float
    distinct_2: float


@torch.no_grad()
@one_thread
def diagnose(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_samples: int = 512,
    num_prior_draws: int = 4096,
    log_likelihood_bound: float | Tensor | None = None,
    prior_sample: PriorSample | None = None,
    chunk: int = 256,
) -> Diagnostics:
    """Measure a guide against the posterior of a model.

    Args:
        model: a Pyro program over prompts.
        guide: a Pyro program over prompts.
        prompts: N prompts.
        num_samples: of the guide, for each prompt.
        num_prior_draws: of the prior, for each prompt.
        log_likelihood_bound: the largest possible r/beta, one or `[N]`, nats, such as `AlignmentModel.log_likelihood_bound`; None
            if not known.
        prior_sample: independent draws from the prior, of an earlier call with the same model and prompts.
        chunk: responses handled at a time, for each prompt.

    Raises:
        NotANumberError: if a log-probability of the guide or of the prior is NaN.
        LikelihoodError: if a factor is NaN or +inf.
        ValueError: if a number is out of its range, or the prior's draws are of other prompts.
    """
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    num_samples = whole_number(
        "num_samples", num_samples, why="responses of the guide for each prompt"
    )
    num_prior_draws = whole_number(
        "num_prior_draws", num_prior_draws, why="responses of the prior for each prompt"
    )
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    if prior_sample is None:
        prior_sample = sample_prior(
            model,
            prompts,
            num_prior_draws,
            independent=True,
            log_likelihood_bound=log_likelihood_bound,
            chunk=chunk,
        )
    elif instance("prior_sample", prior_sample, PriorSample).response.shape[1] != len(prompts):
        raise ValueError(
            f"prior_sample is of {prior_sample.response.shape[1]} prompts, expected the {len(prompts)} prompts of this call"
        )
    with SameResponses():
        distribution = response_distribution(guide, prompts, role="guide")
        response = torch.cat(
            [
                distribution.sample((min(chunk, num_samples - i),))
                for i in range(0, num_samples, chunk)
            ]
        )
        joints = [joint_at(model, prompts, part) for part in response.split(chunk)]
        log_guide = torch.cat(
            [log_guide_at(guide, prompts, part) for part in response.split(chunk)]
        ).double()
    log_prior = torch.cat([joint.log_prior for joint in joints]).double()
    log_likelihood = torch.cat([joint.log_likelihood for joint in joints])
    log_weight = log_prior + log_likelihood - log_guide  # [M, N]
    elbo, log_z = Estimate.of_mean(log_weight), prior_sample.log_z()
    return Diagnostics(
        elbo=elbo,
        log_likelihood=Estimate.of_mean(log_likelihood),
        kl_guide_prior=Estimate.of_mean(log_guide - log_prior),
        entropy=Estimate.of_mean(-log_guide),
        log_z_bound=log_mean_exp(log_weight),
        log_z=log_z,
        kl_guide_posterior=_kl_guide_posterior(elbo, log_z),
        kl_posterior_guide=_kl_posterior_guide(model, guide, prompts, prior_sample, chunk),
        acceptance=None
        if prior_sample.accepted is None
        else prior_sample.accepted.double().mean().item(),
        effective_sample_size=effective_sample_size(log_weight).min().item(),
        pareto_k=pareto_k(log_weight).max().item(),
        distinct_2=distinct_n(response, _is_token(distribution, response), 2),
    )


def _kl_guide_posterior(elbo: Estimate, log_z: Estimate) -> Estimate:
    """log Z - ELBO, where either may be -inf."""
    if math.isinf(elbo.value):
        return Estimate(math.inf, math.nan)
    return log_z.minus(elbo) if math.isfinite(log_z.value) else Estimate(math.nan, math.nan)


def _kl_posterior_guide(
    model: Program, guide: Program, prompts: Prompts, draws: PriorSample, chunk: int
) -> Estimate | None:
    """KL(p* || q) from the accepted draws and log Z from all of them; the error takes in that both are of the same draws."""
    if draws.accepted is None or not bool(draws.accepted.any(0).all()):
        return None
    accepted = draws.accepted.double()
    kept = draws.accepted.any(1)  # a draw is scored if any prompt accepted it
    prior, parts = (
        response_distribution(model, prompts, role="model"),
        draws.response[kept].split(chunk),
    )
    log_likelihood = draws.log_likelihood.double()
    log_ratio = log_likelihood.clone()
    log_ratio[kept] += torch.cat(
        [prior.log_prob(part).double() - log_guide_at(guide, prompts, part) for part in parts]
    )
    log_ratio = torch.where(draws.accepted, log_ratio, 0.0)
    mean = log_ratio.sum(0) / accepted.sum(0)
    log_z = log_mean(log_likelihood)
    moves_mean = accepted * (log_ratio - mean) / accepted.mean(0)
    moves_log_z = (log_likelihood - log_z).exp() - 1
    return Estimate.of_influence(mean - log_z, moves_mean - moves_log_z)


def _is_token(distribution: TorchDistribution, response: Tensor) -> Tensor:
    """Where responses are not padding; a distribution that is not of ours is taken to have none."""
    if isinstance(distribution, ResponseDistribution):
        return distribution.space.is_token(response)
    return torch.ones_like(response, dtype=torch.bool)


def distinct_n(response: Tensor, is_token: Tensor, n: int) -> float:
    """Different runs of n tokens, as a share of all, within each prompt's responses and averaged over prompts (Li et al. 2016).

    Args:
        response: `[M, N, T]`, token ids.
        is_token: the same shape, True where a position is not padding.
        n: length of a run.

    Returns:
        The share; 0 where no response has so many tokens.
    """
    n = whole_number("n", n, why="tokens in a run")
    instance("response", response, Tensor)
    instance("is_token", is_token, Tensor)
    if response.dim() != 3 or response.shape != is_token.shape or not response.numel():
        raise ValueError(
            f"response has shape {tuple(response.shape)} and is_token {tuple(is_token.shape)}, expected [M, N, T] for both, "
            "with at least one response and prompt"
        )
    if response.shape[-1] < n:
        return 0.0
    shares = []
    for prompt in range(response.shape[1]):
        windows = response[:, prompt].unfold(-1, n, 1)[is_token[:, prompt].unfold(-1, n, 1).all(-1)]
        shares.append(len(windows.unique(dim=0)) / max(1, len(windows)))
    return sum(shares) / len(shares)
