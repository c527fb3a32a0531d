"""Posterior of a run: rewards, factors, beta by a budget, and a tilt by moments."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

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
    budget: Mapping[str, Any] | None = None,
    *,
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
        budget: `max_kl`, nats, or `min_reward`, for `solve_beta`; None to keep beta.
        num_draws: number of prior draws behind budgets and moments, for each prompt.
        seed: random seed of the draws.
        trust_remote_code: run the code that comes with a network.
    """
    code = {"trust_remote_code": trust_remote_code}
    by_option: dict[str, list[Choice]] = {}
    for choice in choices:
        by_option.setdefault(choice.option, []).append(choice)
    rewards = {each.text: each.reward(prior, **code) for each in by_option.get("--reward", ())}
    factors: dict[str, Factor] = {}
    for each in by_option.get("--constraint", ()):
        factors[each.text] = each.constraint(prior, **code)
    draws = {"num_draws": num_draws, "seed": seed}
    if budget:
        beta = budgeted_beta(prior, rewards, factors, prompts, budget, **draws)
    for each in by_option.get("--factor", ()):
        factors[each.text] = each.factor(prior, beta, **code)
    with blamed("--reward"):
        model = AlignmentModel(prior, rewards, beta, factors)
    if moments := by_option.get("--moment"):
        features = {each.text: each.reward(prior, **code) for each in moments}
        targets = {each.text: each.mean for each in moments if each.mean is not None}
        return with_moments(model, prompts, features, targets, **draws)
    return model


def with_moments(
    base: AlignmentModel,
    prompts: Prompts,
    features: Mapping[str, Reward],
    targets: Mapping[str, float],
    *,
    num_draws: int,
    seed: int,
) -> AlignmentModel:
    """Tilt a model such that features have given means, see `match_moments`; print the match.

    Exits if there is no such tilt.
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
    budget: Mapping[str, Any],
    *,
    num_draws: int,
    seed: int,
) -> float:
    """The beta that meets a budget, see `solve_beta`; print the posterior's KL and reward.

    Exits if no beta meets the budget.
    """
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
