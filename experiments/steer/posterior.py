"""Posterior of a run: rewards, factors, beta by a budget, and a tilt by moments."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from experiments.shared.refusals import blamed
from experiments.steer.choices import Choice
from experiments.steer.expectations import chunk
from inference import PriorSample, Program, match_moments, random_state, sample_prior, solve_beta
from model import (
    AlignmentModel,
    Factor,
    LanguageModel,
    Prompts,
    Reward,
    TextReward,
    Tilt,
    TokenReward,
    WeightedSum,
)
from model.likelihood import parts_of
from model.rewards.text import NUM_REPEATED

NOISE = {
    TextReward: "The first number is remembered for each text, so the posterior prefers texts "
    "whose number was high by chance",
    TokenReward: "Each call draws another number, so the likelihood is the mean of exp(r/beta) "
    "over the noise",
}
"""Effect of a noisy reward on the posterior."""


def build_model(
    choices: Sequence[Choice],
    prior: LanguageModel,
    prompts: Prompts,
    beta: float,
    budget: Mapping[str, Any] | None = None,
    *,
    num_draws: int,
    seed: int,
    every: Prompts | None = None,
) -> AlignmentModel:
    """Build the model whose posterior the choices name.

    Args:
        choices: rewards, constraints, factors and moments.
        prior: p0.
        prompts: N prompts, over which budgets and moments are averaged.
        beta: reward per nat, replaced by a budget.
        budget: `max_kl`, nats, or `min_reward`, for `solve_beta`.
        num_draws: number of prior draws behind budgets and moments, for each prompt.
        seed: random seed of the draws.
        every: all prompts of a run, whose columns are checked; None for `prompts`.
    """
    every = prompts if every is None else every

    def named(option: str) -> dict[str, Choice]:
        return {choice.text: choice for choice in choices if choice.option == option}

    rewards = {text: each.reward(prior) for text, each in named("--reward").items()}
    constraints = {text: each.constraint(prior) for text, each in named("--constraint").items()}
    # a factor that takes beta comes without a budget
    others = {text: each.factor(prior, beta) for text, each in named("--factor").items()}
    features = {text: each.reward(prior) for text, each in named("--moment").items()}
    check_columns("--reward", rewards, every)
    check_columns("--constraint", constraints, every)
    check_columns("--factor", others, every)
    check_columns("--moment", features, every)
    factors: dict[str, Factor] = {**constraints, **others}
    draws = {"num_draws": num_draws, "seed": seed}
    if budget:
        beta = budgeted_beta(prior, rewards, factors, prompts, budget, **draws)
    with blamed("--reward"):
        model = AlignmentModel(prior, rewards, beta, factors)
    targets = {choice.text: choice.mean for choice in choices if choice.mean is not None}
    return with_moments(model, prompts, features, targets, **draws) if features else model


def check_columns(option: str, pieces: Mapping[str, object], prompts: Prompts) -> None:
    """Exit at a piece, alone or inside another, that needs other columns than the prompts have."""
    for text, piece in pieces.items():
        for part in parts_of(piece):
            if (check := getattr(part, "check_columns", None)) is not None:
                with blamed(f"{option} {text!r}"):
                    check(prompts)


def noise_warnings(model: AlignmentModel, prompts: Prompts, response: Tensor) -> list[str]:
    """Warn of each function that gives some of the responses `[M, N, T]` other rewards.

    Functions of texts score at most 16 texts again, others 16 responses to each prompt.
    """
    sentences = []
    pieces = [(reward, 1 / model.beta) for reward in model.rewards.values()]
    for piece, unit in (*pieces, *((factor, 1.0) for factor in model.factors.values())):
        for part, nats in rewards_of_functions(piece, unit):
            with random_state.preserved():
                difference = part.repeat_difference(prompts, response[:NUM_REPEATED])
            if difference > 0:
                effect = next(text for kind, text in NOISE.items() if isinstance(part, kind))
                size = "" if math.isnan(nats) else f", or {difference * nats:.3g} nats"
                sentences.append(
                    f"reward {part.name!r} gave a response another number in a second call: they "
                    f"differ by {difference:.3g}{size}. {effect}: E[r] of the posterior "
                    "and log Z are too high. Return the same number for a response each time (a "
                    "fixed seed, temperature 0), or the mean of enough calls"
                )
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=2)
    return sentences


def rewards_of_functions(
    piece: object, unit: float
) -> Iterator[tuple[TextReward | TokenReward, float]]:
    """Rewards by functions inside a piece, and the nats of one unit; NaN in a constraint."""
    if isinstance(piece, TextReward | TokenReward):
        yield piece, unit
    inside = [(part, math.nan) for part in getattr(piece, "components", tuple)()]
    if isinstance(piece, WeightedSum):
        inside = [(reward, weight) for weight, reward in piece.parts.values()]
    elif isinstance(piece, Tilt):
        inside = [(phi, piece.multipliers[name]) for name, phi in piece.features.items()]
    for part, weight in inside:
        yield from rewards_of_functions(part, unit * abs(weight))


def with_moments(
    base: AlignmentModel,
    prompts: Prompts,
    features: Mapping[str, Reward],
    targets: Mapping[str, float],
    *,
    num_draws: int,
    seed: int,
) -> AlignmentModel:
    """Tilt a model by `match_moments`, and print the match; exit if no tilt has the means."""
    with random_state.isolated(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the printed match has each warning
        try:
            match = match_moments(base, prompts, features, targets, num_draws=num_draws)
            tilt = match.factor
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"--moment: {error}") from error
    print(match)
    return AlignmentModel(base.prior, base.rewards, base.beta, {**base.factors, "moments": tilt})


def budgeted_beta(
    prior: LanguageModel,
    rewards: Mapping[str, Reward],
    factors: Mapping[str, Factor],
    prompts: Prompts,
    budget: Mapping[str, Any],
    *,
    num_draws: int,
    seed: int,
) -> float:
    """Solve for beta, and print the posterior's KL and reward; exit if no beta meets the budget."""
    try:
        with random_state.isolated(seed):
            solution = solve_beta(
                prior, rewards, prompts, factors=factors, num_draws=num_draws, **budget
            )
    except ValueError as error:
        option = "--kl-budget" if "max_kl" in budget else "--min-reward"
        raise SystemExit(f"{option}: {error}") from error
    size = solution.effective_sample_size
    method = "exactly" if size is None else f"from {size:.0f} effective draws"
    print(
        f"beta {solution.beta:.4g}: KL(p* || p0) = {solution.kl} nats and E[r] = "
        f"{solution.reward} of the posterior, {method}"
    )
    assert isinstance(solution.beta, float)
    return solution.beta


def draw_prior(
    target: Program, model: AlignmentModel, prompts: Prompts, num_draws: int
) -> PriorSample:
    """Independent draws of the prior to each prompt; exit if all to a prompt are forbidden.

    The log likelihoods are of `target`, the model or a softened model; their bound is the model's.
    """
    bound = model.log_likelihood_bound(prompts)
    with blamed("--reward"):
        how: dict[str, Any] = {"log_likelihood_bound": bound, "chunk": chunk(prompts)}
        sample = sample_prior(target, prompts, num_draws, independent=True, **how)
    is_hopeless = sample.log_likelihood.isneginf().all(0)
    if bool(is_hopeless.any()):
        text = prompts.texts[int(is_hopeless.int().argmax())]
        problem = f"none of {num_draws} draws of the prior after {text!r} meets it"
        raise SystemExit(f"--constraint: {problem}; add a --penalty")
    return sample
