"""A KL budget, or a reward to reach, solved for beta."""

import pytest
import torch
from torch.testing import assert_close

from inference import Enumeration, solve_beta
from inference.targets.kl_budget import BudgetError
from model import (
    AlignmentModel,
    MarginalLikelihood,
    OtherBetaError,
    Pattern,
    TextReward,
    Tilt,
    WeightedSum,
    contains,
    vader_sentiment,
)
from model.prior.grammar import PROMPTS


@pytest.fixture(scope="module")
def prompts(small_prior):
    return small_prior.encode(PROMPTS)


@pytest.fixture(scope="module")
def sentiment(small_prior):
    return TextReward(vader_sentiment, small_prior, upper_bound=1.0)


def exactly(prior, reward, prompts, beta, factors=None):
    """KL(p* || p0) and E_p*[r], averaged over prompts, by enumeration."""
    model = AlignmentModel(prior, reward, beta, factors)
    truth = Enumeration(model, prompts)
    p = truth.log_posterior.exp()
    kl = torch.where(p > 0, p * (truth.log_posterior - truth.log_prior), 0.0).sum(0)
    reward = model.reward(prompts, truth.support).nan_to_num(neginf=0.0)
    return kl, (p * reward).sum(0)


@pytest.mark.parametrize("budget", [0.01, 0.5, 1.5])
def test_beta_spends_the_budget_exactly(small_prior, sentiment, prompts, budget):
    solution = solve_beta(small_prior, sentiment, prompts, max_kl=budget)
    kl, reward = exactly(small_prior, sentiment, prompts, solution.beta)
    assert kl.mean().item() == pytest.approx(budget, abs=1e-9)
    assert solution.kl.value == pytest.approx(budget, abs=1e-9)
    assert solution.reward.value == pytest.approx(reward.mean().item(), abs=1e-9)
    assert solution.effective_sample_size is None
    assert solution.kl.standard_error == solution.reward.standard_error == 0


@pytest.mark.parametrize("target", [0.0, 0.3])
def test_beta_reaches_the_reward_exactly(small_prior, sentiment, prompts, target):
    solution = solve_beta(small_prior, sentiment, prompts, min_reward=target)
    assert exactly(small_prior, sentiment, prompts, solution.beta)[
        1
    ].mean().item() == pytest.approx(target, abs=1e-9)


def test_beta_is_the_price_of_a_nat(small_prior, sentiment, prompts):
    """d E[r] / d KL = beta: the multiplier of the constraint."""
    step = 1e-4
    low, at, high = (
        solve_beta(small_prior, sentiment, prompts, max_kl=0.5 + shift)
        for shift in (-step, 0, step)
    )
    assert (high.reward.value - low.reward.value) / (2 * step) == pytest.approx(at.beta, rel=1e-5)


def test_no_posterior_within_the_budget_has_more_reward(small_prior, sentiment, prompts):
    """Against tilts by another function of the reward, at the same KL."""
    best = solve_beta(small_prior, sentiment, prompts, max_kl=0.5).reward.value

    def bent(p, x):
        return sentiment(p, x) ** 3

    solution = solve_beta(small_prior, bent, prompts, max_kl=0.5)
    truth = Enumeration(AlignmentModel(small_prior, bent, solution.beta), prompts)
    reward = (truth.log_posterior.exp() * sentiment(prompts, truth.support)).sum(0).mean().item()
    assert reward < best - 1e-4


def test_every_prompt_meets_the_budget_alone(small_prior, sentiment, prompts):
    solution = solve_beta(small_prior, sentiment, prompts, max_kl=0.5, per_prompt=True)
    kl, _ = exactly(small_prior, sentiment, prompts, solution.beta)
    assert_close(kl, torch.full_like(kl, 0.5), rtol=0, atol=1e-9)
    assert solution.kl.value == pytest.approx(0.5, abs=1e-9)
    first, second = solution.beta.values()
    assert abs(first - second) > 1e-3


class OfOnePrompt:
    """The sentiment at the first prompt; the worst responses are impossible."""

    def __init__(self, sentiment):
        self.sentiment = sentiment

    def applies(self, prompts):
        return torch.arange(len(prompts)) == 0

    def __call__(self, prompts, response):
        reward = self.sentiment(prompts, response)
        reward = reward.masked_fill(reward < -0.5, -torch.inf)
        return reward.masked_fill(~self.applies(prompts), torch.nan)


def test_the_mean_reward_is_over_the_prompts_with_a_reward(small_prior, sentiment, prompts):
    reward = OfOnePrompt(sentiment)
    solution = solve_beta(small_prior, reward, prompts, min_reward=0.3)
    _, expected = exactly(small_prior, reward, prompts, solution.beta)
    assert expected[0].item() == pytest.approx(0.3, abs=1e-9)
    assert solution.reward.value == pytest.approx(0.3, abs=1e-9)
    with pytest.raises(BudgetError, match=f"^prompt 1, '{prompts.texts[1]}': no reward applies"):
        solve_beta(small_prior, reward, prompts, max_kl=0.3, per_prompt=True)


@pytest.mark.slow
def test_draws_find_beta_within_their_errors(prior, prompts):
    sentiment = TextReward(vader_sentiment, prior)
    exact = solve_beta(prior, sentiment, prompts, max_kl=0.5)
    runs = [solve_beta(prior, sentiment, prompts, max_kl=0.5, num_draws=400) for _ in range(30)]
    assert all(50 < run.effective_sample_size < 400 for run in runs)
    true_kl = torch.tensor(
        [exactly(prior, sentiment, prompts, run.beta)[0].mean().item() for run in runs]
    )
    claimed = sum(run.kl.standard_error for run in runs) / len(runs)
    assert true_kl.std().item() == pytest.approx(claimed, rel=5 * (2 * 30) ** -0.5)
    beta = torch.tensor([run.beta for run in runs])
    assert beta.mean().item() == pytest.approx(exact.beta, abs=5 * beta.std().item() / 30**0.5)
    assert beta.std() < 0.2 * exact.beta


def test_a_constraint_costs_the_same_kl_at_any_beta(small_prior, sentiment, prompts):
    good = {"good": contains("good", small_prior)}
    prior_given_good = AlignmentModel(small_prior, {}, 1.0, good)
    alone = -Enumeration(prior_given_good, prompts).log_z.mean().item()
    solution = solve_beta(small_prior, sentiment, prompts, factors=good, max_kl=alone + 0.2)
    kl, _ = exactly(small_prior, sentiment, prompts, solution.beta, good)
    assert kl.mean().item() == pytest.approx(alone + 0.2, abs=1e-9)
    match = rf"ranges from {alone:.4g} .*Every posterior is beyond it"
    with pytest.raises(BudgetError, match=match):
        solve_beta(small_prior, sentiment, prompts, factors=good, max_kl=alone - 0.1)


@pytest.mark.parametrize(
    ("budget", "fault"),
    [
        ({"max_kl": 100.0}, r"KL\(p \|\| p0\) is asked to be 100 nats.*No posterior gets there$"),
        ({"max_kl": 0.0}, "Every posterior is beyond it"),
        (
            {"min_reward": 2.0},
            r"E\[r\] is asked to be 2 of reward.*exactly. No posterior gets there$",
        ),
        ({"min_reward": -0.9}, "Every posterior is beyond it"),
        (
            {"max_kl": 5.0, "num_draws": 50},
            "on 50 draws of the prior. No posterior gets there; draw more of the prior",
        ),
    ],
)
def test_error_for_an_impossible_budget_names_the_range(
    small_prior, sentiment, prompts, budget, fault
):
    with pytest.raises(BudgetError, match=fault):
        solve_beta(small_prior, sentiment, prompts, **budget)


@pytest.mark.parametrize("budget", [{"max_kl": 1.0}, {"min_reward": 0.3}])
def test_a_tilt_is_the_same_at_every_beta(small_prior, sentiment, prompts, budget):
    very = TextReward(Pattern.of_words("very"), small_prior)
    factors = {"tilt": Tilt({"very": very}, {"very": 0.8})}
    solution = solve_beta(small_prior, sentiment, prompts, factors=factors, **budget)
    kl, reward = exactly(small_prior, sentiment, prompts, solution.beta, factors)
    reached = kl if "max_kl" in budget else reward
    assert reached.mean().item() == pytest.approx(*budget.values(), abs=1e-9)
    assert solution.kl.value == pytest.approx(kl.mean().item(), abs=1e-9)
    assert solution.reward.value == pytest.approx(reward.mean().item(), abs=1e-9)


@pytest.mark.parametrize("scale", [1e5, 1e-6])
def test_rewards_of_two_scales_have_the_posteriors_of_both(small_prior, sentiment, prompts, scale):
    """A huge penalty or a tiny second reward does not change the range of beta."""
    rare = TextReward(lambda texts: [scale * (len(text) % 7) for text in texts], small_prior)
    reward = WeightedSum({"taste": (1.0, sentiment), "other": (-1.0, rare)})
    furthest = exactly(small_prior, reward, prompts, 1e-9)[0].mean().item()
    for share in (0.3, 0.9, 0.999):
        solution = solve_beta(small_prior, reward, prompts, max_kl=share * furthest)
        assert exactly(small_prior, reward, prompts, solution.beta)[
            0
        ].mean().item() == pytest.approx(share * furthest, rel=1e-6)
    match = rf"to {furthest:.4g} \(beta = 0\), exactly. No posterior gets there"
    with pytest.raises(BudgetError, match=match):
        solve_beta(small_prior, reward, prompts, max_kl=1.01 * furthest)


def test_one_budget_and_a_reward_that_varies(small_prior, sentiment, prompts):
    for given in ({}, {"max_kl": 1.0, "min_reward": 0.5}):
        with pytest.raises(ValueError, match="expected one of the two"):
            solve_beta(small_prior, sentiment, prompts, **given)
    with pytest.raises(BudgetError, match="the same for every response"):
        solve_beta(small_prior, lambda _, x: torch.ones(x.shape[:-1]), prompts, max_kl=1.0)


def test_a_factor_made_for_one_beta_is_refused_even_at_beta_one(small_prior, sentiment, prompts):
    factor = MarginalLikelihood(lambda texts: torch.zeros(3, len(texts)), small_prior, beta=1.0)
    match = "factor 'w' was made for one beta, and beta is solved"
    with pytest.raises(OtherBetaError, match=match):
        solve_beta(small_prior, sentiment, prompts, factors={"w": factor}, max_kl=0.3)


def test_budget_that_few_draws_stand_for_is_warned_of(prior, prompts):
    with pytest.warns(UserWarning, match=r"effective draws of 400 represent") as caught:
        budget = solve_beta(
            prior, TextReward(vader_sentiment, prior), prompts, max_kl=2.3, num_draws=400
        )
    assert budget.warnings == [str(warning.message) for warning in caught]


def test_prompt_given_twice_has_two_betas_by_position(prior):
    twice = prior.encode(["the film was", "the plot was", "the film was"])
    sentiment = TextReward(vader_sentiment, prior)
    solution = solve_beta(prior, sentiment, twice, max_kl=0.3, num_draws=400, per_prompt=True)
    assert list(solution.beta) == twice.names()
    first, _, third = AlignmentModel(prior, sentiment, solution.beta).beta_at(twice).tolist()
    assert first != third  # of other draws
    assert first == pytest.approx(third, rel=0.3)
