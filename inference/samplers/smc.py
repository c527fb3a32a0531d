"""Sequential Monte Carlo over the tokens of a response, with an optional twist.

    x_t ~ q(. | x_<t),   w_t = p0(x_t | x_<t) / q(x_t | x_<t) * psi_t(x_<=t) / psi_{t-1}(x_<t)
    at the end           w   = likelihood(x) / psi(x),   psi_0 = 1
    Z_hat = product over resamplings of the mean weight since the resampling before

Zhao et al. 2024, arXiv 2404.17546. The twist psi_t predicts the likelihood after a prefix; the best
is E_p0[likelihood(x) | x_<=t]. The twist cancels: without resampling the weight of a particle is
p0(x) likelihood(x) / q(x), whatever the twist.
"""

import torch
from torch import Tensor

from inference.estimate import check_numbers
from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from inference.response_site import SameResponses, check_value
from inference.samplers.particles import Particles, Stream
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import proposal_distribution
from inference.samplers.resampling import Scheme, find_scheme, multinomial
from inference.samplers.token_rejection import TokenRejection
from inference.samplers.twist import Twist
from model import Prompts
from model.common.checks import as_given, finite, function, instance, whole_number
from model.prior.division import by_all_ranks


@by_all_ranks
def sequential_monte_carlo(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 256,
    twist: Twist | None = None,
    resampling: str | Scheme = "systematic",
    ess_threshold: float = 0.5,
    retained: Tensor | None = None,
    rejection: TokenRejection | None = None,
) -> Posterior:
    """Grow K particles token by token, and resample the particles of a prompt that degenerate.

    Args:
        model: Pyro program with a `ResponseDistribution` at the site `response`; another
            distribution raises `TypeError`.
        prompts: N prompts, in one batch; each has its own weights and resampling.
        guide: Pyro program with a `ResponseDistribution` at the site `response`, the proposal q;
            None for the prior.
        num_samples: K, for each prompt.
        twist: See `Twist`; None for psi = 1. Without twist and guide, this is importance sampling
            from the prior.
        resampling: Name in `RESAMPLING`, or a function like those.
        ess_threshold: Resample if the effective sample size is below this share of K; 0 never,
            above 1 at every token.
        retained: `[N, T]`, the response of particle 0 in conditional sequential Monte Carlo, which
            needs multinomial resampling; None for sequential Monte Carlo.
        rejection: Hard constraint on prefixes, which becomes part of the posterior: tokens are
            drawn from the allowed tokens, by tests of few. None for tokens of the proposal.

    Returns:
        exp(log_z) is unbiased for Z (`NoSupportError` counts as 0); means are consistent.
        Diagnostics: `num_resamplings`; `effective_sample_size`; `num_distinct`, the number of
        different responses; `num_roots`, the number of first tokens with descendants of positive
        weight: 1 suggests too much resampling; with a rejection, `num_tests`.
    """
    scheme = find_scheme(resampling)
    num_samples = whole_number("num_samples", num_samples, why="responses to each prompt")
    ess_threshold = finite("ess_threshold", ess_threshold, at_least=0)
    check_options(twist, retained, rejection, scheme)
    with SameResponses():
        prior = autoregressive(response_distribution(model, prompts, role="model"))
        if retained is not None:
            check_value("retained", prior, retained)
        particles = Particles(prior, num_samples)
        proposal = target = Stream(prior, num_samples)
        if guide is not None:
            q = autoregressive(proposal_distribution(model, guide, prompts))
            proposal = Stream(q, num_samples)
        num_tokens = prior.event_shape[0]
        for t in range(1, num_tokens + 1):
            if rejection is not None:
                token = rejection.draw(particles, proposal, prompts, t)
            else:
                token = proposal.sample()
            if retained is not None:
                token[0] = retained[:, t - 1]
            write_token(particles, token, t, proposal, target)
            if t == num_tokens or bool(particles.ended.all()):
                break
            if twist is not None:
                weigh_by_twist(particles, twist, prompts, t)
            fix = f"after {t} tokens, by the twist or the prior; correct the twist or the guide"
            check_support(particles.log_weight, prompts.texts, fix)
            ancestors = particles.resample(scheme, ess_threshold, keep_first=retained is not None)
            for stream in {target, proposal}:
                stream.extend(particles.response[..., t - 1], ancestors)
        particles.weigh(log_likelihood_at(model, prompts, particles.response) - particles.log_psi)
    check_support(particles.log_weight, prompts.texts)
    tests = {} if rejection is None else {"num_tests": particles.num_tests}
    return particles.posterior({"num_resamplings": particles.num_resamplings} | tests)


def check_options(
    twist: Twist | None, retained: Tensor | None, rejection: TokenRejection | None, scheme: Scheme
) -> None:
    """Refuse options of another type, and a retained response that would not be a draw."""
    if twist is not None:
        function("twist", twist, takes=3, why="prompts, responses and t, a `Twist`")
    if rejection is not None:
        instance("rejection", rejection, TokenRejection)
    if retained is not None:
        instance("retained", retained, Tensor)
        if rejection is not None:
            raise ValueError("got retained and rejection, expected one: W is not conditional")
        if scheme is not multinomial:
            raise ValueError("retained needs resampling='multinomial', got another scheme")


def write_token(
    particles: Particles, token: Tensor, t: int, proposal: Stream, target: Stream
) -> None:
    """Write token t, `[K, N]`, of unfinished responses, and weigh it by p0/q."""
    if proposal is not target:
        log_ratio = target.log_prob(token) - proposal.log_prob(token)
        particles.weigh(log_ratio.masked_fill(particles.ended, 0.0))
    particles.write(token, t)


def weigh_by_twist(particles: Particles, twist: Twist, prompts: Prompts, t: int) -> None:
    """Replace psi_{t-1} by psi_t, except in responses that ended before token t."""
    result = twist(prompts, particles.response.clone(), t)  # which it may change
    log_psi = as_given("what twist returned", result, particles.log_psi)
    log_psi = check_numbers("what twist returned", log_psi)
    ended_before = particles.space.is_token(particles.response)[..., t - 1].logical_not()
    log_psi = torch.where(ended_before, particles.log_psi, log_psi)
    particles.weigh(log_psi - particles.log_psi)
    particles.log_psi = log_psi
