"""Distance of a guide from the posterior, on a model too large to enumerate.

    ELBO         = E_q[log w],  w = p0(x) likelihood(x) / q(x)       unbiased
    bound        = E[log mean_K w] <= log Z                          Burda et al. 2015, 1509.00519
    Z            = E_p0[likelihood]                                  unbiased; log Z biased low
    KL(q || p*)  = log Z - ELBO
    KL(p* || q)  = E_p*[log p0 + log likelihood - log q] - log Z     p* by rejection from the prior

All numbers are of whole responses, in nats, averaged over prompts, with standard errors for fixed
prompts. An estimate of a divergence near 0 may be negative, and is not clamped.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from inference.diagnostics.self_bleu import check_runs
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
    """Distance of a guide from the posterior, and its parts; estimates in nats, over prompts.

    Attributes:
        elbo: E_q[log p0 + log likelihood - log q].
        log_likelihood: E_q[log likelihood]; with a reward alone E_q[r]/beta.
        kl_guide_prior: KL(q || p0).
        entropy: entropy of q.
        log_z_bound: importance-weighted lower bound on log Z.
        log_z: log Z from the prior sample.
        kl_guide_posterior: KL(q || p*). Infinite if the guide drew an impossible response. NaN if
            only the prior did, for all draws of a prompt, so that log Z is unknown.
        kl_posterior_guide: KL(p* || q); None without a bound, or an accepted draw.
        acceptance: share of prior draws accepted as exact posterior samples; None without a bound.
        effective_sample_size: (sum w)^2 / sum w^2 of the guide's samples as importance samples, the
            lowest over prompts.
        pareto_k: shape of the tail of w, the highest over prompts; above 0.7 importance sampling
            from q is unreliable (Vehtari et al. 2015, arXiv 1507.02646).
        distinct_2: number of different pairs of neighbouring tokens, as a share of all pairs.
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

        bound = model.log_likelihood_bound(prompts)
        print(diagnose(model, guide, prompts, log_likelihood_bound=bound).kl_guide_posterior)

    Args:
        model: a Pyro program over prompts, as the guide.
        guide: the program to measure.
        prompts: N prompts.
        num_samples: number of samples of the guide, for each prompt.
        num_prior_draws: number of draws from the prior, for each prompt.
        log_likelihood_bound: largest possible log likelihood, nats, a number or `[N]`.
        prior_sample: independent draws from the prior of the same model and prompts.
        chunk: number of responses handled at a time, for each prompt.

    Raises:
        NotANumberError: if a log probability of the guide or of the prior is NaN.
        LikelihoodError: if a factor is NaN or +inf.
        ValueError: if a number is out of its range, or `prior_sample` is of other prompts.
    """
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    num_samples = whole_number("num_samples", num_samples, why="responses of the guide")
    num_prior_draws = whole_number("num_prior_draws", num_prior_draws, why="draws from the prior")
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    if prior_sample is None:
        draw = partial(sample_prior, model, prompts, num_prior_draws, independent=True)
        prior_sample = draw(log_likelihood_bound=log_likelihood_bound, chunk=chunk)
    got = instance("prior_sample", prior_sample, PriorSample).response.shape[1]
    if got != len(prompts):
        raise ValueError(
            f"prior_sample is of {got} prompts, expected the {len(prompts)} prompts of this call"
        )
    with SameResponses():
        distribution = response_distribution(guide, prompts, role="guide")
        sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
        response = torch.cat([distribution.sample(torch.Size([size])) for size in sizes])
        parts = response.split(chunk)
        joints = [joint_at(model, prompts, part) for part in parts]
        log_guide = torch.cat([log_guide_at(guide, prompts, part) for part in parts]).double()
    is_token = torch.ones_like(response, dtype=torch.bool)
    if isinstance(distribution, ResponseDistribution):  # only that has padding
        is_token = distribution.space.is_token(response)
    log_prior = torch.cat([joint.log_prior for joint in joints]).double()
    log_likelihood = torch.cat([joint.log_likelihood for joint in joints])
    log_weight = log_prior + log_likelihood - log_guide  # [M, N]
    elbo, log_z = Estimate.of_mean(log_weight), prior_sample.log_z()
    accepted = prior_sample.accepted
    gap = log_z.minus(elbo) if math.isfinite(log_z.value) else Estimate(math.nan, math.nan)
    return Diagnostics(
        elbo=elbo,
        log_likelihood=Estimate.of_mean(log_likelihood),
        kl_guide_prior=Estimate.of_mean(log_guide - log_prior),
        entropy=Estimate.of_mean(-log_guide),
        log_z_bound=log_mean_exp(log_weight),
        log_z=log_z,
        kl_guide_posterior=Estimate(math.inf, math.nan) if math.isinf(elbo.value) else gap,
        kl_posterior_guide=_kl_posterior_guide(model, guide, prompts, prior_sample, chunk),
        acceptance=None if accepted is None else accepted.double().mean().item(),
        effective_sample_size=effective_sample_size(log_weight).min().item(),
        pareto_k=pareto_k(log_weight).max().item(),
        distinct_2=distinct_n(response, is_token, 2),
    )


def _kl_posterior_guide(
    model: Program, guide: Program, prompts: Prompts, sample: PriorSample, chunk: int
) -> Estimate | None:
    """KL(p* || q) from accepted draws and log Z from all draws, with their common error."""
    if sample.accepted is None or not bool(sample.accepted.any(0).all()):
        return None
    accepted = sample.accepted.double()
    any_prompt = sample.accepted.any(1)  # score a draw that any prompt accepted
    prior = response_distribution(model, prompts, role="model")
    log_prior_guide = [
        prior.log_prob(part).double() - log_guide_at(guide, prompts, part)
        for part in sample.response[any_prompt].split(chunk)
    ]
    log_likelihood = sample.log_likelihood.double()
    log_ratio = log_likelihood.clone()
    log_ratio[any_prompt] += torch.cat(log_prior_guide)
    log_ratio = torch.where(sample.accepted, log_ratio, 0.0)
    mean = log_ratio.sum(0) / accepted.sum(0)
    log_z = log_mean(log_likelihood)
    influence_on_mean = accepted * (log_ratio - mean) / accepted.mean(0)
    influence_on_log_z = (log_likelihood - log_z).exp() - 1
    return Estimate.of_influence(mean - log_z, influence_on_mean - influence_on_log_z)


def distinct_n(response: Tensor, is_token: Tensor, n: int) -> float:
    """Number of different runs of n tokens, as a share of all runs (Li et al. 2016).

    Within each prompt's responses, averaged over prompts; 0 if no response has n tokens.

    Args:
        response: `[M, N, T]`, token ids.
        is_token: `[M, N, T]`, True where a position is not padding.
        n: number of tokens in a run.
    """
    n = check_runs(response, is_token, n, at_least=1)
    if response.shape[-1] < n:
        return 0.0
    shares = []
    whole = is_token.unfold(-1, n, 1).all(-1)  # [M, N, T - n + 1]
    for prompt in range(response.shape[1]):
        runs = response[:, prompt].unfold(-1, n, 1)[whole[:, prompt]]
        shares.append(len(runs.unique(dim=0)) / max(1, len(runs)))
    return sum(shares) / len(shares)
