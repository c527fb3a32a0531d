"""Sequential Monte Carlo over the tokens of a response, with an optional twist (Zhao et al. 2024, arXiv 2404.17546).

    x_t ~ q(. | x_<t),   w_t = p0(x_t | x_<t) / q(x_t | x_<t) * psi_t(x_<=t) / psi_{t-1}(x_<t),   psi_0 = 1
    at the end           w   = exp(r(x)/beta) / psi(x)
    log Z_hat = log of the product of the mean weights between one resampling and the next

The twist psi_t foretells what evidence a prefix will come to; the best is E_p0[exp(r/beta) | x_<=t]. It cancels: without
resampling, a particle's weight is p0(x) exp(r(x)/beta) / q(x) whatever the twist.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from inference.response_site import SameResponses
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.resampling import Scheme, find_scheme, num_distinct, resample_if_degenerate
from inference.samplers.twist import Twist
from model import Prompts, ResponseDistribution
from model.common.checks import finite, function, instance, whole_number
from model.common.thread_lock import one_thread
from model.prior.logits import sample_token, token_log_prob


@torch.no_grad()
@one_thread
def sequential_monte_carlo(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 256,
    twist: Twist | None = None,
    resampling: str | Scheme = "systematic",
    ess_threshold: float = 0.5,
) -> Posterior:
    """K particles grow token by token; a prompt's are resampled whenever they degenerate.

    Args:
        model: a Pyro program; its `response` site is a `ResponseDistribution`.
        prompts: N prompts, in one batch; each has its own weights and is resampled by itself.
        guide: the proposal q, a Pyro program whose `response` site is a `ResponseDistribution`; None for the prior.
        num_samples: K, for each prompt.
        twist: see `Twist`; None for psi = 1. Without twist and guide no weight moves before the end, and this is importance
            sampling from the prior.
        resampling: a name in `RESAMPLING`, or a function like them.
        ess_threshold: resample when the effective sample size is below this share of K; 0 never, above 1 at every token.

    Returns:
        Responses `[K, N, T]` and log weights. exp(log_z) is unbiased for Z; log_z itself is biased low (Jensen), and means
        under the weights are consistent. Diagnostics: `num_resamplings`, `effective_sample_size`, `num_distinct` responses, and
        `num_roots`, the first tokens drawn from which the particles with any weight descend: 1 tells of too much resampling.

    Raises:
        NoSupportError: if all particles of a prompt have weight 0; for the mean of exp(log_z) it counts as 0.
        TypeError: if a `response` site is not a `ResponseDistribution`.
        ValueError: if there is nothing to draw, no such scheme, or the twist returns something else than a `Twist` does.
    """
    scheme = find_scheme(resampling)
    num_samples = whole_number("num_samples", num_samples, why="responses to each prompt")
    ess_threshold = finite("ess_threshold", ess_threshold, at_least=0)
    if twist is not None:
        function("twist", twist, why="of prompts, responses and t, a `Twist`")
    return grow(
        model,
        prompts,
        guide=guide,
        num_samples=num_samples,
        twist=twist,
        scheme=scheme,
        ess_threshold=ess_threshold,
    )


@dataclass
class Particles:
    """K unfinished responses to each of N prompts. All are `[K, N]` but for those that say otherwise.

    Attributes:
        response: `[K, N, T]`, the padding id where no token is set yet.
        ended: the end id is among its tokens.
        log_weight: since the prompt was last resampled, nats.
        log_psi: the twist that is in `log_weight`.
        root: which of the K first tokens it descends from.
        log_z: `[N]`, log of the mean weights that resampling has taken out of `log_weight`.
        num_resamplings: `[N]`.
    """

    response: Tensor
    ended: Tensor
    log_weight: Tensor
    log_psi: Tensor
    root: Tensor
    log_z: Tensor
    num_resamplings: Tensor

    @classmethod
    def unwritten(cls, prior: ResponseDistribution, num_particles: int) -> Particles:
        shape, device = (num_particles, len(prior.prompts)), prior.prompts.ids.device
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        root = torch.arange(num_particles, device=device)[:, None].expand(shape)
        response = torch.full((*shape, *prior.event_shape), prior.space.pad_id, device=device)
        return cls(response, zero.bool(), zero, zero, root, zero[0], zero[0].long())

    def weigh(self, log_increment: Tensor) -> None:
        """Multiply the weights; a weight of 0 remains 0, whatever the increment."""
        self.log_weight = torch.where(
            self.log_weight.isneginf(), -torch.inf, self.log_weight + log_increment
        )

    def resample(self, scheme: Scheme, threshold: float, *, keep_first: bool) -> Tensor | None:
        """Resample where needed. Returns the rows, of the K N sequences, that the new particles continue; None if unchanged."""
        ancestors, self.log_weight, log_taken, done = resample_if_degenerate(
            self.log_weight, scheme, threshold, keep_first=keep_first
        )
        if not bool(done.any()):
            return None
        self.log_z = self.log_z + log_taken
        self.num_resamplings = self.num_resamplings + done
        self.response = self.response.gather(0, ancestors[..., None].expand_as(self.response))
        self.ended, self.log_psi, self.root = (
            old.gather(0, ancestors) for old in (self.ended, self.log_psi, self.root)
        )
        num_prompts = ancestors.shape[1]
        return (
            ancestors * num_prompts + torch.arange(num_prompts, device=ancestors.device)
        ).flatten()  # row of (k, n)


class Stream:
    """A language model in the midst of K N responses: the logits of the next token `[K N, V]`, and the state to go on from."""

    def __init__(self, distribution: ResponseDistribution, num_particles: int) -> None:
        self.decoder, self.temperature = distribution.decoder, distribution.temperature
        rows = torch.arange(
            len(distribution.prompts), device=distribution.prompts.ids.device
        ).repeat(num_particles)
        logits, state = self.decoder.start(distribution.prompts)
        self.logits, self.state = logits[rows], state.select(rows)

    def sample(self) -> Tensor:
        return sample_token(self.logits, self.temperature)

    def log_prob(self, token: Tensor) -> Tensor:
        return token_log_prob(self.logits, token, self.temperature).double()

    def extend(self, token: Tensor, rows: Tensor | None) -> None:
        """Append `token` `[K N]` to the sequences at `rows`; None for all as they are."""
        state = self.state if rows is None else self.state.select(rows)
        logits, self.state = self.decoder.extend(state, token[:, None])
        self.logits = logits[:, -1]


def grow(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None,
    num_samples: int,
    twist: Twist | None,
    scheme: Scheme,
    ess_threshold: float,
    retained: Tensor | None = None,
) -> Posterior:
    """The algorithm; with `retained`, a response `[N, T]` that particle 0 must be, conditional sequential Monte Carlo."""
    with SameResponses():
        prior = autoregressive(response_distribution(model, prompts, role="model"))
        q = (
            prior
            if guide is None
            else autoregressive(response_distribution(guide, prompts, role="guide"))
        )
        particles = Particles.unwritten(prior, num_samples)
        target = Stream(prior, num_samples)
        proposal = target if guide is None else Stream(q, num_samples)
        num_tokens = prior.event_shape[0]
        for t in range(1, num_tokens + 1):
            draw_token(
                particles,
                target,
                proposal,
                t,
                prior,
                None if retained is None else retained[:, t - 1],
            )
            if t == num_tokens or bool(particles.ended.all()):
                break
            if twist is not None:
                weigh_by_twist(particles, twist, prompts, t, prior)
            check_support(
                particles.log_weight,
                prompts.texts,
                f"after {t} tokens, by the twist or the prior; mend the twist or guide",
            )
            rows = particles.resample(scheme, ess_threshold, keep_first=retained is not None)
            for stream in {target, proposal}:
                stream.extend(particles.response[..., t - 1].flatten(), rows)
        particles.weigh(log_likelihood_at(model, prompts, particles.response) - particles.log_psi)
        return as_posterior(particles, prompts)


def draw_token(
    particles: Particles,
    target: Stream,
    proposal: Stream,
    t: int,
    prior: ResponseDistribution,
    retained: Tensor | None,
) -> None:
    """Token t of every response that has not ended; particle 0 gets `retained` `[N]` if there is one."""
    token = proposal.sample().view(particles.ended.shape)
    if retained is not None:
        token[0] = torch.where(particles.ended[0], token[0], retained)
    if proposal is not target:
        log_ratio = target.log_prob(token.flatten()) - proposal.log_prob(token.flatten())
        particles.weigh(log_ratio.view(token.shape).masked_fill(particles.ended, 0.0))
    particles.response[..., t - 1] = token.masked_fill(particles.ended, prior.space.pad_id)
    particles.ended = particles.ended | torch.isin(token, prior.space.end_ids)


def weigh_by_twist(
    particles: Particles, twist: Twist, prompts: Prompts, t: int, prior: ResponseDistribution
) -> None:
    """psi_t in place of psi_{t-1}, but for responses that ended before token t, which keep the twist they ended with."""
    log_psi = instance("what twist returned", twist(prompts, particles.response, t), Tensor)
    if (
        log_psi.shape != particles.ended.shape
        or bool(log_psi.isnan().any())
        or bool(log_psi.isposinf().any())
    ):
        raise ValueError(
            f"twist returned shape {tuple(log_psi.shape)}, values from {log_psi.min().item()} to {log_psi.max().item()}; "
            f"expected {tuple(particles.ended.shape)}, one value per particle and prompt, each finite or -inf"
        )
    ended_before = prior.space.is_token(particles.response)[..., t - 1].logical_not()
    log_psi = torch.where(ended_before, particles.log_psi, log_psi.double())
    particles.weigh(log_psi - particles.log_psi)
    particles.log_psi = log_psi


def as_posterior(particles: Particles, prompts: Prompts) -> Posterior:
    log_weight = particles.log_weight
    check_support(
        log_weight,
        prompts.texts,
        "draw more, use a guide or twist nearer to the posterior, or soften the evidence",
    )
    posterior = Posterior(particles.response, log_weight, particles.log_z + log_mean(log_weight))
    diagnostics = {
        "num_resamplings": particles.num_resamplings,
        "effective_sample_size": posterior.effective_sample_size,
        "num_distinct": num_distinct(particles.response, log_weight),
        "num_roots": num_distinct(particles.root[..., None], log_weight),
    }
    return Posterior(posterior.response, log_weight, posterior.log_z, diagnostics)
