"""Annealed sequential Monte Carlo: whole responses, led from the proposal to the posterior (Del Moral, Doucet and Jasra 2006).

    pi_lambda = q^(1 - lambda) (p0 exp(r/beta))^lambda = q w^lambda,   w = p0 exp(r/beta) / q,   lambda from 0 to 1
    for each next lambda':   weigh by w^(lambda' - lambda),   resample,   move by kernels that leave pi_lambda' invariant

The kernel is `suffix_move`. What resampling has made alike, it makes different again; but what it redraws comes from q, so that
a move costs as much as a fresh draw, and seldom mends the beginning of a response. Whether temperatures and moves are worth
more than as many more draws for importance sampling depends on the evidence; for a constraint that is met or not, they are not.

An impossible response (w = 0) counts at lambda as if log w^lambda were -lambda / (1 - lambda) nats, which is -inf at 1 and not
before: particles that are impossible to begin with have time to come upon what is possible.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size
from inference.programs import Program, autoregressive, response_distribution
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import weigh
from inference.samplers.resampling import Scheme, find_scheme, num_distinct, resample_if_degenerate
from inference.samplers.suffix_move import suffix_move
from model import Prompts, ResponseDistribution
from model.common.checks import finite, whole_number
from model.common.thread_lock import one_thread

BLIND_STEP = 1.0  # nats that an impossible response loses in a step, as long as none is possible
BLIND_LIMIT = (
    20.0  # nats lost without having met a possible response, after which the sampler gives up
)
HALVINGS = 40


@torch.no_grad()
@one_thread
def annealed_smc(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 256,
    num_temperatures: int | None = None,
    moves: int = 2,
    resampling: str | Scheme = "systematic",
    ess_threshold: float = 0.5,
) -> Posterior:
    """K whole responses to each prompt, through tempered targets.

    Args:
        model: a Pyro program; without a guide its `response` site is a `ResponseDistribution`.
        prompts: N prompts, in one batch; each has its own weights, resampling and temperatures.
        guide: the proposal q, whose `response` site is a `ResponseDistribution`; None for the prior.
        num_samples: K, for each prompt.
        num_temperatures: steps from 0 to 1, evenly spaced. None to choose each so that the effective sample size falls to
            `ess_threshold` K: as many steps as it takes.
        moves: Metropolis moves of every response after each step, the last included.
        resampling: a name in `RESAMPLING`, or a function like them.
        ess_threshold: resample when the effective sample size is below this share of K; below 1 if temperatures are chosen.

    Returns:
        Responses `[K, N, T]` and log weights. exp(log_z) is unbiased for Z with evenly spaced temperatures; with chosen ones,
        which look at the particles they then weigh, it is consistent as K grows. log_z itself is biased low (Jensen), and means
        are consistent. Diagnostics: `num_temperatures`; `num_blind`, how many of them were gone to with nothing but impossible
        responses; `acceptance`, the share of moves; `effective_sample_size`; and `num_distinct` responses. Where `num_blind` is
        not 0 the moves may have come upon the posterior, but log_z can be off by many nats: draw more.

    Raises:
        NoSupportError: if all responses to a prompt are impossible at the last step; for the mean of exp(log_z) it counts as 0.
        TypeError: if the proposal is not a `ResponseDistribution`.
        ValueError: if the numbers asked for make no schedule.
    """
    scheme = find_scheme(resampling)
    num_samples = whole_number("num_samples", num_samples, why="responses to each prompt")
    if num_temperatures is not None:
        whole_number(
            "num_temperatures", num_temperatures, why="or None to choose them by the weights"
        )
    chosen = "temperatures are chosen by it" if num_temperatures is None else ""
    finite("ess_threshold", ess_threshold, at_least=0, below=1 if chosen else torch.inf, why=chosen)
    whole_number("moves", moves, at_least=0)
    program, role = (model, "model") if guide is None else (guide, "guide")
    proposal = autoregressive(response_distribution(program, prompts, role=role))

    def log_ratio_at(response: Tensor) -> Tensor:
        return weigh(model, guide, prompts, response).log_weight  # [K, N]

    response = proposal.sample((num_samples,))
    log_ratio = log_ratio_at(response)
    log_weight = torch.zeros_like(log_ratio)
    log_z, temperature, num_steps, num_blind, num_accepted = (
        torch.zeros_like(log_ratio[0]) for _ in range(5)
    )
    num_moves = 0
    while bool((active := temperature < 1).any()):
        previous, num_steps = temperature, num_steps + active
        num_blind = num_blind + log_ratio.isneginf().all(0)
        if num_temperatures is None:
            temperature = torch.where(
                active, choose_temperature(log_ratio, log_weight, previous, ess_threshold), previous
            )
        else:
            temperature = num_steps / num_temperatures
        log_weight = _reweighted(log_weight, log_ratio, previous, temperature)
        check_support(
            log_weight,
            prompts.texts,
            "draw more, or use more temperatures, more moves or a guide nearer to the posterior",
        )
        ancestors, log_weight, log_taken, _ = resample_if_degenerate(
            log_weight, scheme, ess_threshold
        )
        log_z = log_z + log_taken
        response = response.gather(0, ancestors[..., None].expand_as(response))
        log_ratio = log_ratio.gather(0, ancestors)
        for _ in range(moves):
            response, log_ratio, accepted = _move(
                proposal, response, log_ratio, temperature, log_ratio_at
            )
            num_moves, num_accepted = num_moves + 1, num_accepted + accepted.double().mean(0)
    log_z = log_z + log_mean(log_weight)
    diagnostics = {
        "num_temperatures": num_steps.long(),
        "num_blind": num_blind.long(),
        "acceptance": num_accepted / max(1, num_moves),
        "effective_sample_size": effective_sample_size(log_weight),
        "num_distinct": num_distinct(response, log_weight),
    }
    return Posterior(response, log_weight, log_z, diagnostics)


def log_tempered(log_ratio: Tensor, temperature: Tensor) -> Tensor:
    """log of w^lambda, `[K, N]` from log w `[K, N]` and lambda `[N]`; -lambda / (1 - lambda) where w is 0."""
    return torch.where(
        log_ratio.isneginf(), -temperature / (1 - temperature), temperature * log_ratio
    )


def choose_temperature(
    log_ratio: Tensor, log_weight: Tensor, temperature: Tensor, ess_threshold: float
) -> Tensor:
    """The next lambda for each prompt, `[N]`: where the effective sample size first falls below the threshold, or 1.

    By bisection, whose upper end is taken, so that what is found is resampled. As long as a prompt has met no possible response
    all its weights are equal and their effective sample size says nothing: then a step costs at most `BLIND_STEP` nats.
    """
    penalty = temperature / (1 - temperature)
    cautious = (penalty + BLIND_STEP) / (
        penalty + BLIND_STEP + 1
    )  # the lambda at which the penalty is that much more
    blind = log_ratio.isneginf().all(0) & (penalty < BLIND_LIMIT - BLIND_STEP / 2)
    low, high = temperature, torch.where(blind, cautious, 1.0)

    def enough(candidate: Tensor) -> Tensor:
        weight = _reweighted(log_weight, log_ratio, temperature, candidate)
        return effective_sample_size(weight) >= ess_threshold * len(
            weight
        )  # NaN, at weights all 0, is not enough

    reached = enough(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = enough(middle)
        low, high = torch.where(above, middle, low), torch.where(above | reached, high, middle)
    return high


def _reweighted(log_weight: Tensor, log_ratio: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """log_weight times w^new / w^old, `[K, N]`. Where old is 1 already nothing changes: 0/0, for the impossible."""
    return log_weight + torch.where(
        new == old, 0.0, log_tempered(log_ratio, new) - log_tempered(log_ratio, old)
    )


def _move(
    proposal: ResponseDistribution,
    response: Tensor,
    log_ratio: Tensor,
    temperature: Tensor,
    log_ratio_at: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """A suffix move that leaves pi_lambda invariant. Returns responses, their log w and which were accepted."""
    proposed_log_ratio = log_ratio

    def score(proposed: Tensor) -> Tensor:
        nonlocal proposed_log_ratio
        proposed_log_ratio = log_ratio_at(
            proposed
        )  # kept, since log w^lambda alone does not tell log w
        return log_tempered(proposed_log_ratio, temperature)

    response, _, accepted = suffix_move(
        proposal, response, log_tempered(log_ratio, temperature), score
    )
    return response, torch.where(accepted, proposed_log_ratio, log_ratio), accepted
