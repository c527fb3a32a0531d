"""Posterior of a run: rewards, factors, beta by a budget, and a tilt by moments."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from experiments.shared.refusals import blamed
from experiments.steer.choices import Choice
from inference import (
    PriorSample,
    Program,
    match_moments,
    random_state,
    sample_prior,
    solve_beta,
)
from model import AlignmentModel, Factor, LanguageModel, Prompts, Reward


def build_model(
    choices: Sequence[Choice],
    prior: LanguageModel,
    prompts: Prompts,
    beta: float,
    *,
    max_kl: float | None = None,
    min_reward: float | None = None,
    num_draws: int,
    seed: int,
    trust_remote_code: bool = False,
) -> AlignmentModel:
    """Build the model whose posterior the choices name.

    Args:
        choices: rewards, constraints, factors and moments.
        prior: p0.
        prompts: N prompts, over which budgets and moments are averaged.
        beta: reward per nat, replaced by a budget.
        max_kl: budget KL(p* || p0), nats.
        min_reward: budget E[r].
        num_draws: number of prior draws behind budgets and moments, for each prompt.
        seed: random seed of the draws.
        trust_remote_code: run the code that comes with a network.
    """
    rewards: dict[str, Reward] = {}
    factors: dict[str, Factor] = {}
    for choice in choices:
        if choice.option == "--reward":
            rewards[choice.text] = choice.reward(prior, trust_remote_code=trust_remote_code)
        elif choice.option == "--constraint":
            factors[choice.text] = choice.constraint(prior, trust_remote_code=trust_remote_code)
    if not (max_kl is None and min_reward is None):
        beta = budgeted_beta(
            prior,
            rewards,
            factors,
            prompts,
            max_kl=max_kl,
            min_reward=min_reward,
            num_draws=num_draws,
            seed=seed,
        )
    for choice in choices:
        if choice.option == "--factor":
            factors[choice.text] = choice.factor(prior, beta, trust_remote_code=trust_remote_code)
    with blamed("--reward"):
        model = AlignmentModel(prior, rewards, beta, factors)
    moments = [choice for choice in choices if choice.mean is not None]
    features = {
        choice.text: choice.reward(prior, trust_remote_code=trust_remote_code) for choice in moments
    }
    targets = {choice.text: choice.mean for choice in moments if choice.mean is not None}
    if not moments:
        return model
    return with_moments(model, prompts, features, targets, num_draws=num_draws, seed=seed)


def with_moments(
    base: AlignmentModel,
    prompts: Prompts,
    features: Mapping[str, Reward],
    targets: Mapping[str, float],
    *,
    num_draws: int,
    seed: int,
) -> AlignmentModel:
    """Model of the posterior closest to the base's with given means; exit if there is none.

    Args:
        base: model without moments.
        prompts: N prompts, over which the means are taken.
        features: phi by name.
        targets: E[phi] by name.
        num_draws: number of prior draws for each prompt.
        seed: random seed of the draws.
    """
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
    *,
    max_kl: float | None,
    min_reward: float | None,
    num_draws: int,
    seed: int,
) -> float:
    """The beta that meets a budget; prints the posterior's KL and reward. Exits if none does."""
    try:
        with random_state.isolated(seed):
            solution = solve_beta(
                prior,
                rewards,
                prompts,
                factors=factors,
                max_kl=max_kl,
                min_reward=min_reward,
                num_draws=num_draws,
            )
    except ValueError as error:
        option = "--min-reward" if max_kl is None else "--kl-budget"
        raise SystemExit(f"{option}: {error}") from error
    size = solution.effective_sample_size
    method = "exactly" if size is None else f"from {size:.0f} effective draws"
    kl, reward = solution.kl, solution.reward
    print(
        f"beta {solution.beta:.4g}: KL(p* || p0) = {kl} nats and E[r] = {reward} of the posterior, "
        f"{method}"
    )
    assert isinstance(solution.beta, float)
    return solution.beta


def draw_prior(
    target: Program, model: AlignmentModel, prompts: Prompts, num_draws: int
) -> PriorSample:
    """Independent draws of the prior; exit if all draws to a prompt are forbidden.

    Args:
        target: program that gives the log likelihoods, `model` or a softened model.
        model: model that gives the bound of the log likelihood.
        prompts: N prompts.
        num_draws: number of draws for each prompt.
    """
    bound = model.log_likelihood_bound(prompts)
    with blamed("--reward"):
        sample = sample_prior(
            target, prompts, num_draws, independent=True, log_likelihood_bound=bound
        )
    is_hopeless = sample.log_likelihood.isneginf().all(0)
    if bool(is_hopeless.any()):
        text = prompts.texts[int(is_hopeless.int().argmax())]
        raise SystemExit(
            f"--constraint: none of {num_draws} draws of the prior after {text!r} meets it; add a "
            "--penalty"
        )
    return sample
