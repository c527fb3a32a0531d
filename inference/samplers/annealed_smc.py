"""Annealed sequential Monte Carlo: whole responses, moved from the proposal to the posterior.

    pi_lambda = q^(1 - lambda) (p0 likelihood)^lambda = q w^lambda,   w = p0 likelihood / q
    for lambda' after lambda, from 0 to 1:
        weigh by w^(lambda' - lambda),   resample,   move by kernels that leave pi_lambda' invariant

Del Moral, Doucet and Jasra 2006. The kernel is `suffix_move`, with new tokens from q, so that a
move costs as much as a fresh draw and seldom changes the beginning of a response. Whether the moves
are worth as many more draws for importance sampling depends on the likelihood; for a single
constraint, they are not.

An impossible response (w = 0) has log w^lambda = -lambda / (1 - lambda) nats, which is -inf only at
lambda = 1: particles that start impossible have time to become possible.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from inference.importance_weights import effective_sample_size
from inference.programs import Program, autoregressive
from inference.roots import bisect
from inference.samplers.population import Population
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import proposal_distribution, weigh
from inference.samplers.resampling import Scheme, find_scheme
from inference.samplers.suffix_move import suffix_move
from model import Prompts, ResponseDistribution
from model.common.checks import finite, whole_number
from model.prior.division import by_all_ranks

BLIND_STEP = 1.0  # nats that an impossible response loses in a step while none is possible
BLIND_LIMIT = 20.0  # nats lost without a possible response, after which the sampler gives up
HALVINGS = 40


@by_all_ranks
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
    """Draw K whole responses to each prompt, through tempered targets.

    Args:
        model, prompts, guide, num_samples, resampling: See `sequential_monte_carlo`. Each prompt
            has its own temperatures.
        num_temperatures: Number of evenly spaced steps from 0 to 1. None to choose each step such
            that the effective sample size falls to `ess_threshold` K.
        moves: Number of Metropolis moves of every response after each step.
        ess_threshold: Resample if the effective sample size is below this share of K; below 1 if
            temperatures are chosen.

    Returns:
        exp(log_z) is unbiased for Z with evenly spaced temperatures, and consistent in K with
        chosen ones, which depend on the particles; `NoSupportError` counts as 0 in its mean. Means
        are consistent. Diagnostics: `num_temperatures`; `num_blind`, the number of steps at which
        all responses were impossible; `acceptance`, the share of accepted moves;
        `effective_sample_size`; `num_distinct`, the number of different responses; `num_roots`, the
        number of first draws with descendants of positive weight. If `num_blind` is not 0, moves
        may have found the posterior, but the error of log_z may be many nats: draw more.

        Responses too rare to be drawn leave no trace in the weights. On the grammar at beta 0.05
        (8 temperatures, else the defaults), responses of prior probability below 1e-4 hold 2% and
        4% of the posteriors of two prompts and have high rewards: 45% of the 95% intervals of the
        mean reward held in 40 runs, and there were `Posterior.warnings` in 15% of the runs
        (`python -m experiments.coverage --sources annealed-smc --sizes 4352`).
    """
    scheme = find_scheme(resampling)
    num_samples = whole_number("num_samples", num_samples, why="responses to each prompt")
    chosen = num_temperatures is None
    if num_temperatures is not None:
        why = "or None to choose them by the weights"
        whole_number("num_temperatures", num_temperatures, why=why)
    below, why = (1.0, "temperatures are chosen by it") if chosen else (torch.inf, "")
    finite("ess_threshold", ess_threshold, at_least=0, below=below, why=why)
    whole_number("moves", moves, at_least=0)
    proposal = autoregressive(proposal_distribution(model, guide, prompts))
    particles = Annealed(proposal.sample((num_samples,)), partial(weigh, model, guide, prompts))
    num_steps, num_blind, num_accepted = particles.log_z.new_zeros(3, len(prompts))
    num_moves = 0
    while bool((active := particles.temperature < 1).any()):
        log_ratio, log_weight = particles.log_ratio, particles.log_weight
        num_steps, num_blind = num_steps + active, num_blind + log_ratio.isneginf().all(0)
        if num_temperatures is None:
            before = particles.temperature
            following = choose_temperature(log_ratio, log_weight, before, ess_threshold)
        else:
            following = num_steps / num_temperatures
        particles.anneal(torch.where(active, following, 1.0))
        fix = "draw more, or use more temperatures, more moves or a guide nearer to the posterior"
        check_support(particles.log_weight, prompts.texts, fix)
        particles.resample(scheme, ess_threshold)
        for _ in range(moves):
            accepted = particles.move(proposal)
            num_moves, num_accepted = num_moves + 1, num_accepted + accepted.double().mean(0)
    diagnostics = {"num_temperatures": num_steps.long(), "num_blind": num_blind.long()}
    diagnostics["acceptance"] = num_accepted / max(1, num_moves)
    return particles.posterior(diagnostics)


class Annealed(Population):
    """K responses to each of N prompts at the temperatures lambda, which start at 0.

    Args:
        response: `[K, N, T]`, draws of q.
        log_ratio_at: log w of responses, `[K, N, T]` -> `[K, N]`, nats.

    Attributes:
        log_ratio: `[K, N]`, log w of the responses.
        temperature: `[N]`, lambda.
    """

    inherited = (*Population.inherited, "log_ratio")

    def __init__(self, response: Tensor, log_ratio_at: Callable[[Tensor], Tensor]) -> None:
        super().__init__(response)
        self.log_ratio, self._log_ratio_at = log_ratio_at(response), log_ratio_at
        self.temperature = torch.zeros_like(self.log_z)

    def anneal(self, temperature: Tensor) -> None:
        """Multiply the weights by w^(lambda' - lambda) for the new temperatures lambda', `[N]`."""
        self.weigh(_change(self.log_ratio, self.temperature, temperature))
        self.temperature = temperature

    def move(self, proposal: ResponseDistribution) -> Tensor:
        """Move each response by a kernel that leaves pi_lambda invariant; accepted moves."""
        temper = partial(log_tempered, temperature=self.temperature)
        self.response, self.log_ratio, accepted = suffix_move(
            proposal, self.response, self.log_ratio, self._log_ratio_at, temper=temper
        )
        return accepted


def log_tempered(log_ratio: Tensor, temperature: Tensor) -> Tensor:
    """log w^lambda, `[K, N]`, from log w `[K, N]` and lambda `[N]`; finite for lambda < 1."""
    impossible = -temperature / (1 - temperature)
    return torch.where(log_ratio.isneginf(), impossible, temperature * log_ratio)


def choose_temperature(
    log_ratio: Tensor, log_weight: Tensor, temperature: Tensor, ess_threshold: float
) -> Tensor:
    """Next lambda of each prompt, `[N]`: where the effective sample size falls below the threshold.

    Bisection returns its upper end, so that the particles are resampled; 1 if the size never falls
    below. While all responses to a prompt are impossible, their weights are equal and say nothing:
    then a step costs at most `BLIND_STEP` nats.
    """
    penalty = temperature / (1 - temperature)
    # the lambda at which the penalty is larger by the step
    cautious = (penalty + BLIND_STEP) / (penalty + BLIND_STEP + 1)
    blind = log_ratio.isneginf().all(0) & (penalty < BLIND_LIMIT - BLIND_STEP / 2)
    low, high = temperature, torch.where(blind, cautious, 1.0)

    def enough(candidate: Tensor) -> Tensor:
        weight = log_weight + _change(log_ratio, temperature, candidate)
        # NaN, if all weights are 0, is not enough
        return effective_sample_size(weight) >= ess_threshold * len(weight)

    return torch.where(enough(high), high, bisect(enough, low, high, HALVINGS)[1])


def _change(log_ratio: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """log(w^new / w^old), `[K, N]`; 0 at new = old, also if w = 0."""
    change = log_tempered(log_ratio, new) - log_tempered(log_ratio, old)
    return torch.where(new == old, 0.0, change)
