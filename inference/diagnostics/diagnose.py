"""Distance of a guide from the posterior, on a model too large to enumerate.

    ELBO         = E_q[log w],  w = p0(x) likelihood(x) / q(x)       unbiased
    bound        = E[log mean_K w] <= log Z                          Burda et al. 2015, 1509.00519
    log Z        = log mean p0(x) likelihood(x) / m(x)               m: `MixtureSample`
    KL(q || p*)  = log Z - ELBO
    KL(p* || q)  = E_p*[log p0 + log likelihood - log q] - log Z     p* by the same mixture

Prior draws and guide draws estimate log Z together, with joint standard errors. For comparison,
`PriorAlone` has the estimates from the prior draws: Z = E_p0[likelihood], and p* by rejection.

All numbers are of whole responses, in nats, averaged over prompts, with standard errors for fixed
prompts. An estimate of a divergence near 0 may be negative, and is not clamped.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from inference import random_state
from inference.diagnostics.diversity import distinct_n
from inference.diagnostics.mixture_sample import MixtureSample
from inference.diagnostics.prior_alone import PriorAlone, reaches
from inference.estimate import REFUTED, Estimate, log_mean_exp
from inference.importance_weights import FEW, WeightQuality
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import Program, log_guide_at, response_distribution
from inference.response_site import SameResponses, check_arguments
from inference.samplers.proposal import counted, draw_and_score
from model import AlignmentModel, Prompts
from model.common.checks import instance, whole_number
from model.prior.division import by_all_ranks

KLS = ("kl_guide_posterior", "kl_posterior_guide", "kl_posterior_prior")
SUMMARY = {
    "log Z": "log_z",
    "KL(q || p*)": "kl_guide_posterior",
    "KL(p* || q)": "kl_posterior_guide",
    "KL(q || p0)": "kl_guide_prior",
    "ELBO": "elbo",
    "entropy of q": "entropy",
}
"""Estimates of a summary, by symbol."""
OF_GUIDE_DRAWS = ("elbo", "log_likelihood", "kl_guide_prior", "entropy", "kl_guide_posterior")
"""Estimates that are, or contain, plain means over guide draws."""
WEIGHTED = ("log_z", *KLS, "posterior_log_likelihood", "posterior_log_ratio")
"""Estimates from the weights of prior draws and guide draws."""


@dataclass(frozen=True)
class Diagnostics:
    """Distance of a guide from the posterior, and its parts; estimates in nats, over prompts.

    Attributes:
        elbo: E_q[log p0 + log likelihood - log q].
        log_likelihood: E_q[log likelihood]; with a reward alone E_q[r]/beta.
        kl_guide_prior: KL(q || p0).
        entropy: entropy of q.
        log_z_bound: importance-weighted lower bound on log Z.
        log_z: log Z; -inf if all draws to a prompt are impossible.
        kl_guide_posterior: KL(q || p*). Infinite if the guide drew an impossible response.
        kl_posterior_guide: KL(p* || q); a bound from below, within errors, if the guide starves
            responses that are too rare to be drawn, and no number here tells. NaN if all draws to a
            prompt are impossible, as the three estimates that follow.
        kl_posterior_prior: KL(p* || p0).
        posterior_log_likelihood: E_p*[log likelihood].
        posterior_log_ratio: E_p*[log q - log p0] = KL(p* || p0) - KL(p* || q), with the joint
            error; above 0 if the guide is nearer to p* than the prior.
        prior_alone: log Z and both divergences from the prior draws alone.
        acceptance: share of prior draws accepted as exact posterior samples; None without a bound.
        weights: quality of the weights of prior draws and guide draws together.
        guide_weights: quality of w of the guide draws alone, as importance samples.
        distinct_2: number of different pairs of neighbouring tokens, as a share of all pairs.
    """

    elbo: Estimate
    log_likelihood: Estimate
    kl_guide_prior: Estimate
    entropy: Estimate
    log_z_bound: Estimate
    log_z: Estimate
    kl_guide_posterior: Estimate
    kl_posterior_guide: Estimate
    kl_posterior_prior: Estimate
    posterior_log_likelihood: Estimate
    posterior_log_ratio: Estimate
    prior_alone: PriorAlone
    acceptance: float | None
    weights: WeightQuality
    guide_weights: WeightQuality
    distinct_2: float

    @property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 of the guide draws alone, the lowest over prompts."""
        return self.guide_weights.effective_sample_size

    @property
    def pareto_k(self) -> float:
        """Shape of the tail of w of the guide draws alone, the highest over prompts.

        Above 0.7 importance sampling from q is unreliable (Vehtari et al. 2015, arXiv 1507.02646).
        """
        return self.guide_weights.pareto_k

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust estimates, each once; empty if there is none."""
        names = (*OF_GUIDE_DRAWS, *WEIGHTED, "log_z_bound")
        return [*dict.fromkeys(chain(*map(self.warnings_of, names)))]

    def warnings_of(self, name: str) -> list[str]:
        """Reasons to distrust an estimate, by the name of the attribute; empty if there is none.

        The ELBO, KL(q || p0) and the entropy are plain means, doubtful if the draws are few: if
        their error, of N prompts with K draws each, has N (K - 1) < 29 degrees of freedom. The ELBO
        is too high where responses that the posterior nearly excludes are too rare under the guide
        to be drawn, and KL(q || p*) too low: nothing here tells.
        """
        warnings, num_draws = [], self.guide_weights.num_draws
        least = 1 + math.ceil((FEW - 1) / self.guide_weights.num_prompts)
        if name in OF_GUIDE_DRAWS and num_draws < least:
            warnings.append(f"{num_draws} draws of the guide, fewer than {least}")
        if name in WEIGHTED:
            warnings += self.weights.warnings
        if name == "log_z_bound":
            warnings += self.guide_weights.warnings
        estimate = getattr(self, name)
        if name in KLS and estimate.value < -REFUTED * estimate.standard_error:
            warnings.append(
                f"below 0 by over {REFUTED:g} standard errors, which no divergence is: were "
                "the draws used for training?"
            )
        return warnings

    def __str__(self) -> str:
        """The summary, a line for each estimate."""
        return "\n".join(f"{symbol}: {text}" for symbol, text in self.summary().items())

    __repr__ = __str__

    def summary(self) -> dict[str, str]:
        """The main estimates with their errors and warnings as texts, by symbol."""
        return {
            symbol: "; ".join([str(getattr(self, name)), *self.warnings_of(name)])
            for symbol, name in SUMMARY.items()
        }


@by_all_ranks
def diagnose(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_samples: int = 2048,
    num_prior_draws: int = 2048,
    log_likelihood_bound: float | Tensor | None = None,
    prior_sample: PriorSample | None = None,
    chunk: int = 256,
) -> Diagnostics:
    """Measure a guide against the posterior of a model, on draws from streams of their own.

        diagnostics = diagnose(model, guide, prompts)
        print(diagnostics.kl_guide_posterior, *diagnostics.warnings)

    Half of the draws are of the prior. Whichever of prior and guide is nearer to p*, the variance
    of log Z is then at most twice the variance with all draws from the nearer.

    Args:
        model: a Pyro program over prompts, as the guide.
        guide: the program to measure.
        prompts: N prompts.
        num_samples: number of samples of the guide, for each prompt.
        num_prior_draws: number of draws from the prior, for each prompt.
        log_likelihood_bound: largest possible log likelihood, nats, a number or `[N]`, for exact
            posterior samples among the prior draws.
        prior_sample: independent draws from the prior of the same model and prompts, from which
            nothing was learned.
        chunk: number of responses handled at a time, for each prompt.

    Raises:
        NotANumberError: if a log probability of the guide or of the prior is NaN.
        LikelihoodError: if a factor is NaN or +inf.
        SpentSampleError: if something was learned from `prior_sample`.
        ValueError: if a number is out of its range, or `prior_sample` is of other prompts, or lists
            all responses.
    """
    check_arguments(model, prompts, "model")
    check_arguments(guide, prompts, "guide")
    num_samples = whole_number("num_samples", num_samples, why="responses of the guide")
    num_prior_draws = whole_number("num_prior_draws", num_prior_draws, why="draws from the prior")
    chunk = whole_number("chunk", chunk, why="responses handled at a time")
    if prior_sample is None:
        draw = partial(sample_prior, model, prompts, num_prior_draws, independent=True)
        prior_sample = draw(log_likelihood_bound=log_likelihood_bound, chunk=chunk)
    _check(prior_sample, prompts)
    of_guide, distinct_2 = _of_guide(model, guide, prompts, num_samples, chunk)
    of_prior = _of_prior(model, guide, prompts, prior_sample, chunk)
    pairs = zip(of_prior, of_guide, strict=True)
    log_prior, log_likelihood, log_guide = map(torch.cat, pairs)
    mixture = MixtureSample(log_prior, log_likelihood, log_guide, len(of_prior.log_prior))
    if log_likelihood_bound is None and isinstance(model, AlignmentModel):
        log_likelihood_bound = model.log_likelihood_bound(prompts)
    reaches_bound = reaches(mixture.log_likelihood, log_likelihood_bound)
    elbo, accepted = Estimate.of_mean(of_guide.log_weight), prior_sample.accepted
    return Diagnostics(
        elbo=elbo,
        log_likelihood=Estimate.of_levels(of_guide.log_likelihood),
        kl_guide_prior=Estimate.of_mean(of_guide.log_guide - of_guide.log_prior),
        entropy=Estimate.of_mean(-of_guide.log_guide),
        log_z_bound=log_mean_exp(of_guide.log_weight),
        log_z=mixture.log_z(),
        kl_guide_posterior=mixture.kl_guide_posterior(),
        kl_posterior_guide=mixture.kl_posterior_guide(),
        kl_posterior_prior=mixture.kl_posterior_prior(),
        posterior_log_likelihood=mixture.mean(mixture.log_likelihood),
        posterior_log_ratio=mixture.mean(mixture.log_guide - mixture.log_prior),
        prior_alone=PriorAlone.of(prior_sample, of_prior.log_weight, elbo, log_likelihood_bound),
        acceptance=None if accepted is None else accepted.double().mean().item(),
        weights=WeightQuality.of(mixture.log_weight, reaches_bound, "prior and guide"),
        guide_weights=WeightQuality.of(of_guide.log_weight, reaches_bound, "the guide"),
        distinct_2=distinct_2,
    )


def _check(sample: object, prompts: Prompts) -> None:
    """Check that a sample is of unspent draws of the prior to the prompts."""
    sample = instance("prior_sample", sample, PriorSample)
    sample.check_unspent()
    if (got := sample.response.shape[1]) != len(prompts):
        raise ValueError(
            f"prior_sample is of {got} prompts, expected the {len(prompts)} prompts of this call"
        )
    if sample.exact:
        fix = "pass independent=True to `sample_prior`, or measure by `Enumeration`"
        raise ValueError(f"prior_sample lists all responses, expected independent draws: {fix}")


class _Scores(NamedTuple):
    """Log densities of draws, `[M, N]` each, nats, float64."""

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """log w, `[M, N]`, nats."""
        return self.log_prior + self.log_likelihood - self.log_guide


def _of_guide(
    model: Program, guide: Program, prompts: Prompts, num_samples: int, chunk: int
) -> tuple[_Scores, float]:
    """Draws of the guide, and distinct-2 of them."""
    with SameResponses() as same, random_state.measuring(prompts.ids.device):
        draws = draw_and_score(model, guide, prompts, num_samples, chunk=chunk)
        responses, log_guides, joints = zip(*draws, strict=True)
    response = torch.cat(responses)
    is_token = torch.ones_like(response, dtype=torch.bool)
    if same.space is not None:  # without, there is no padding
        is_token = same.space.is_token(response)
    log_prior, log_likelihood = map(torch.cat, zip(*joints, strict=True))
    of_guide = _Scores(log_prior.double(), log_likelihood, torch.cat(log_guides))
    return of_guide, distinct_n(response, is_token, 2)


def _of_prior(
    model: Program, guide: Program, prompts: Prompts, sample: PriorSample, chunk: int
) -> _Scores:
    """Draws of the prior, scored where that has not been done."""
    with SameResponses():
        prior = response_distribution(model, prompts, role="model")
        parts, log_prior = sample.response.split(chunk), sample.log_prior
        sizes = [len(part) for part in parts]
        if log_prior is None:
            every = counted("prior scores of the prior's draws", parts, sizes)
            log_prior = torch.cat([prior.log_prob(part) for part in every])
        every = counted("guide scores of the prior's draws", parts, sizes)
        log_guide = torch.cat([log_guide_at(guide, prompts, part) for part in every])
    return _Scores(log_prior.double(), sample.log_likelihood.double(), log_guide.double())
