"""Sequential Monte Carlo over the tokens of a response, with an optional twist.

    x_t ~ q(. | x_<t),   w_t = p0(x_t | x_<t) / q(x_t | x_<t) * psi_t(x_<=t) / psi_{t-1}(x_<t)
    at the end           w   = likelihood(x) / psi(x),   psi_0 = 1
    Z_hat = product over resamplings of the mean weight since the resampling before

Zhao et al. 2024, arXiv 2404.17546. The twist psi_t predicts the likelihood after a prefix; the best
is E_p0[likelihood(x) | x_<=t]. The twist cancels: without resampling the weight of a particle is
p0(x) likelihood(x) / q(x), whatever the twist.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size
from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from inference.response_site import SameResponses, check_value
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import proposal_distribution
from inference.samplers.resampling import (
    Scheme,
    find_scheme,
    multinomial,
    num_distinct,
    resample_if_degenerate,
)
from inference.samplers.twist import Twist
from model import Prompts, ResponseDistribution
from model.common import ranks
from model.common.checks import finite, function, instance, whole_number
from model.prior.division import Block, Division, by_all_ranks
from model.prior.logits import sample_token, token_log_prob, uniform_numbers


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

    Returns:
        exp(log_z) is unbiased for Z (`NoSupportError` counts as 0); means are consistent.
        Diagnostics: `num_resamplings`; `effective_sample_size`; `num_distinct`, the number of
        different responses; `num_roots`, the number of first tokens with descendants of positive
        weight: 1 suggests too much resampling.
    """
    scheme = find_scheme(resampling)
    num_samples = whole_number("num_samples", num_samples, why="responses to each prompt")
    ess_threshold = finite("ess_threshold", ess_threshold, at_least=0)
    if twist is not None:
        function("twist", twist, takes=3, why="prompts, responses and t, a `Twist`")
    with SameResponses():
        prior = autoregressive(response_distribution(model, prompts, role="model"))
        if retained is not None:
            check_value("retained", prior, retained)
            if scheme is not multinomial:
                raise ValueError("retained needs resampling='multinomial', got another scheme")
        particles = Particles.unwritten(prior, num_samples)
        proposal = target = Stream(prior, num_samples)
        if guide is not None:
            q = autoregressive(proposal_distribution(model, guide, prompts))
            proposal = Stream(q, num_samples)
        num_tokens = prior.event_shape[0]
        for t in range(1, num_tokens + 1):
            given = None if retained is None else retained[:, t - 1]
            draw_token(particles, target, proposal, t, prior, given)
            if t == num_tokens or bool(particles.ended.all()):
                break
            if twist is not None:
                weigh_by_twist(particles, twist, prompts, t, prior)
            fix = f"after {t} tokens, by the twist or the prior; correct the twist or the guide"
            check_support(particles.log_weight, prompts.texts, fix)
            ancestors = particles.resample(scheme, ess_threshold, keep_first=retained is not None)
            for stream in {target, proposal}:
                stream.extend(particles.response[..., t - 1], ancestors)
        particles.weigh(log_likelihood_at(model, prompts, particles.response) - particles.log_psi)
    log_weight = particles.log_weight
    check_support(log_weight, prompts.texts)
    diagnostics = {
        "num_resamplings": particles.num_resamplings,
        "effective_sample_size": effective_sample_size(log_weight),
        "num_distinct": num_distinct(particles.response, log_weight),
        "num_roots": num_distinct(particles.root[..., None], log_weight),
    }
    log_z = particles.log_z + log_mean(log_weight)
    return Posterior(particles.response, log_weight, log_z, diagnostics, particles.root)


@dataclass
class Particles:
    """K unfinished responses to each of N prompts. Tensors are `[K, N]` unless noted.

    Attributes:
        response: `[K, N, T]`, the padding id at tokens that are not set yet.
        ended: True if a token is an end id.
        log_weight: Weight since the last resampling of the prompt, nats.
        log_psi: Twist contained in `log_weight`, nats.
        root: Number from 0 to K - 1 of the first token's particle.
        log_z: `[N]`, log of the mean weights removed by resampling, nats.
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
    def unwritten(cls, prior: ResponseDistribution, num_particles: int) -> Self:
        shape, device = (num_particles, len(prior.prompts)), prior.prompts.ids.device
        zero = torch.zeros(shape, dtype=torch.float64, device=device)
        root = torch.arange(num_particles, device=device)[:, None].expand(shape)
        response = torch.full((*shape, *prior.event_shape), prior.space.pad_id, device=device)
        return cls(response, zero.bool(), zero, zero, root, zero[0], zero[0].long())

    def weigh(self, log_increment: Tensor) -> None:
        """Multiply the weights; a weight of 0 remains 0 for every increment."""
        log_weight = self.log_weight + log_increment
        self.log_weight = torch.where(self.log_weight.isneginf(), -torch.inf, log_weight)

    def resample(self, scheme: Scheme, threshold: float, *, keep_first: bool) -> Tensor | None:
        """Resample degenerate prompts; return the parents `[K, N]`, None if unchanged."""
        step = resample_if_degenerate(self.log_weight, scheme, threshold, keep_first=keep_first)
        if not bool(step.resampled.any()):
            return None
        ancestors, self.log_weight = step.ancestors, step.log_weight
        self.log_z = self.log_z + step.log_mean
        self.num_resamplings = self.num_resamplings + step.resampled
        self.response = self.response.gather(0, ancestors[..., None].expand_as(self.response))
        self.ended = self.ended.gather(0, ancestors)
        self.log_psi = self.log_psi.gather(0, ancestors)
        self.root = self.root.gather(0, ancestors)
        return ancestors


class Stream:
    """A language model inside K N responses: next logits `[B', V]`, and its state.

    Ranks divide the prompts, because resampling moves particles within a prompt, if there are as
    many prompts as ranks. Then B' = K N' for the N' prompts of this rank.
    """

    def __init__(self, distribution: ResponseDistribution, num_particles: int) -> None:
        self.decoder, self.temperature = distribution.decoder, distribution.temperature
        prompts = distribution.prompts
        self.shape = (num_particles, len(prompts))
        is_shared = distribution.division is not None and len(prompts) >= ranks.num_ranks()
        self.by_prompts = Division("prompts") if is_shared else None
        self.own = slice(None)
        if self.by_prompts is not None:
            self.own = self.by_prompts.own_block(*self.shape)[1].prompts
        own = prompts if self.by_prompts is None else prompts[self.own]
        rows = torch.arange(len(own), device=prompts.ids.device).repeat(num_particles)
        logits, state = self.decoder.start(own)
        self.logits, self.state = logits[rows], state.select(rows)

    def sample(self) -> Tensor:
        """One token for each response, `[K, N]`."""
        uniform = uniform_numbers(math.prod(self.shape), self.logits.device).view(self.shape)
        return self._of_own(lambda own: sample_token(self.logits, self.temperature, own(uniform)))

    def log_prob(self, token: Tensor) -> Tensor:
        """log p of the next tokens `[K, N]`, nats."""
        return self._of_own(
            lambda own: token_log_prob(self.logits, own(token), self.temperature).double()
        )

    def extend(self, token: Tensor, ancestors: Tensor | None) -> None:
        """Append `token` `[K, N]` to the responses of `ancestors` `[K, N]`, or to all if None."""
        state = self.state
        if ancestors is not None:
            own = ancestors[:, self.own]
            column = torch.arange(own.shape[1], device=own.device)
            state = state.select((own * own.shape[1] + column).flatten())  # row of (k, n)
        logits, self.state = self.decoder.extend(state, token[:, self.own].reshape(-1, 1))
        self.logits = logits[:, -1]

    def _of_own(self, function: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        """`[K, N]`, computed by each rank for its own responses `[B']`."""

        def of_block(block: Block) -> tuple[Tensor]:
            result = function(lambda tensor: tensor[block].flatten())
            return (result.unflatten(0, (self.shape[0], -1)),)

        if self.by_prompts is None:
            return of_block(Block(slice(None), slice(None)))[0]
        return self.by_prompts.compute(of_block, *self.shape)[0]


def draw_token(
    particles: Particles,
    target: Stream,
    proposal: Stream,
    t: int,
    prior: ResponseDistribution,
    retained: Tensor | None,
) -> None:
    """Draw token t of all unfinished responses; particle 0 gets `retained` `[N]` if given."""
    token = proposal.sample()
    if retained is not None:
        token[0] = torch.where(particles.ended[0], token[0], retained)
    if proposal is not target:
        log_ratio = target.log_prob(token) - proposal.log_prob(token)
        particles.weigh(log_ratio.masked_fill(particles.ended, 0.0))
    particles.response[..., t - 1] = token.masked_fill(particles.ended, prior.space.pad_id)
    particles.ended = particles.ended | torch.isin(token, prior.space.end_ids)


def weigh_by_twist(
    particles: Particles, twist: Twist, prompts: Prompts, t: int, prior: ResponseDistribution
) -> None:
    """Replace psi_{t-1} by psi_t, except in responses that ended before token t."""
    log_psi = instance("what twist returned", twist(prompts, particles.response, t), Tensor)
    shape = tuple(particles.ended.shape)
    if tuple(log_psi.shape) != shape or bool((log_psi.isnan() | log_psi.isposinf()).any()):
        raise ValueError(
            f"twist returned shape {tuple(log_psi.shape)}, values from {log_psi.min().item()} to "
            f"{log_psi.max().item()}; expected {shape}, each value finite or -inf"
        )
    ended_before = prior.space.is_token(particles.response)[..., t - 1].logical_not()
    log_psi = torch.where(ended_before, particles.log_psi, log_psi.double())
    particles.weigh(log_psi - particles.log_psi)
    particles.log_psi = log_psi
