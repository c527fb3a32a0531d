"""The exact expected update of each trainer, over all responses, vanishes at its target alone."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inference import Enumeration
from inference.targets.fixed_points import TARGETS, NoFixedPointError, Problem
from inference.targets.fixed_points.ranks import best_of_n_target, soft_best_of_n
from inference.targets.fixed_points.squared_residual import mean_mirror_descent
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from tests.inference.targets.fixed_points.updates import (
    OPTIONS,
    UPDATES,
    Update,
    advantage,
    per_token,
)

BETA = 0.9


@pytest.fixture(scope="module")
def problem() -> Problem:
    """40 responses of 1 to 3 tokens to 2 prompts, as a tree, with random prior and reward."""
    generator = torch.Generator().manual_seed(0)
    support = [(3, 4, 4), *((a, 3, 4) for a in range(3)), *product(range(3), range(3), range(4))]
    response = torch.tensor(support)[:, None].expand(-1, 2, -1)
    length = (response != 4).sum(-1)
    shape = response.shape[:2]
    prior, reward = (torch.randn(shape, generator=generator).double() for _ in range(2))
    parts = torch.stack([reward.clamp(min=0), reward.clamp(max=0)])
    return Problem((2 * prior).log_softmax(0), reward, BETA, response, length, parts)


def binary(success: float, beta: float) -> Problem:
    prior = torch.tensor([[1 - success], [success]]).double()
    return Problem(prior.log(), torch.tensor([[0.0], [1.0]]), beta)


BY_COUNTING = {"best-of-n", "soft-best-of-n"}


def size_of_update(update: Update, log_q: Tensor, problem: Problem) -> float:
    logits = log_q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(update(logits.log_softmax(0), problem), logits)
    return gradient.abs().max().item()


def test_every_target_has_a_test() -> None:
    assert TARGETS.keys() == UPDATES.keys() | BY_COUNTING


@pytest.mark.parametrize("name", UPDATES)
def test_update_vanishes_at_the_target_and_not_at_the_posterior(name: str, problem) -> None:
    log_q = TARGETS[name](problem, **OPTIONS.get(name, {}))
    assert_close(log_q.exp().sum(0), torch.ones(2).double(), rtol=0, atol=1e-12)
    assert size_of_update(UPDATES[name], log_q, problem) < 1e-10
    elsewhere = size_of_update(UPDATES[name], TARGETS["posterior"](problem), problem)
    assert (elsewhere > 1e-3) == (name != "posterior")


def test_gdpo_of_one_reward_is_grpo(problem: Problem) -> None:
    """Alone, or beside others of weight 0."""
    parts = problem.parts
    assert parts is not None
    for reward, others, options in (
        (problem.reward, None, {}),
        (parts[0], torch.stack([parts[0] - parts[1], parts[1]]), {"weights": [1.0, 0.0]}),
        (parts[1], torch.stack([7 * parts[1], parts[0]]), {"weights": [1.0, 0.0]}),
    ):
        total = reward if others is None else others.sum(0)
        log_q = TARGETS["gdpo"](replace(problem, reward=total, parts=others), **options)
        one = replace(problem, reward=reward if others is None else others[0], parts=None)
        assert_close(log_q, TARGETS["grpo-token-k3"](one), rtol=0, atol=1e-8)


def test_rewards_of_a_model_are_the_parts_of_its_reward() -> None:
    prior = grammar_prior(max_new_tokens=2)
    rewards = {"mood": TextReward(vader_sentiment, prior), "length": TextReward(lengths, prior)}
    problem = Problem.of(AlignmentModel(prior, rewards, 0.7), prior.encode(["the film was"]))
    assert problem.parts is not None
    assert_close(problem.parts.sum(0), problem.reward)
    assert problem.parts.std(1).min() > 0.1
    with pytest.raises(ValueError, match=r"parts has shape .* that add up to `reward`, or None"):
        replace(problem, reward=2 * problem.reward)


def lengths(texts: list[str]) -> list[float]:
    return [float(len(text)) for text in texts]


def group_norm(log_q: Tensor, problem: Problem) -> Tensor:
    """Rewards scaled in their group, less the KL of a token and of later tokens, in OpenRLHF."""
    assert problem.response is not None
    tokens, prior = (per_token(x, problem.response) for x in (log_q, problem.log_prior))
    later = (tokens - prior).detach().flip(-1).cumsum(-1).flip(-1)
    q = log_q.detach().exp()
    gain = advantage(q, problem.reward)[..., None] - problem.beta * later
    return (q[..., None] * gain * tokens).sum()


def test_a_kl_that_is_not_divided_by_the_deviation_has_the_target_of_an_exact_kl(
    problem: Problem,
) -> None:
    for name in ("grpo", "grpo-token-kl", "posterior"):
        size = size_of_update(group_norm, TARGETS[name](problem), problem)
        assert (size < 1e-10) == (name == "grpo")


@pytest.mark.parametrize("name", sorted({*TARGETS} - {"best-of-n", "filtering", "mode-anchored"}))
def test_constant_reward_leaves_the_prior(name: str, problem: Problem) -> None:
    flat = Problem(problem.log_prior, torch.ones(40, 2), BETA, problem.response, problem.length)
    assert_close(TARGETS[name](flat, **OPTIONS.get(name, {})), flat.log_prior)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("name", sorted({*TARGETS} - {"mode-anchored"}))
def test_a_response_that_the_prior_never_gives_plays_no_part(name: str, scale: float, problem):
    """Neither with the largest reward, nor where all rewards are one."""
    log_prior = problem.log_prior.clone()
    log_prior[[3, 20]] = -math.inf
    reward = 1.0 + scale * problem.reward
    reward[3] += scale * 9.0
    columns = (log_prior.log_softmax(0), reward, problem.response, problem.length)
    some = [row for row in range(40) if row not in (3, 20)]
    log_p, reward, response, length = columns
    whole = Problem(log_p, reward, BETA, response, length)
    part = Problem(log_p[some], reward[some], BETA, response[some], length[some])
    log_q, of_part = (TARGETS[name](each, **OPTIONS.get(name, {})) for each in (whole, part))
    assert bool(log_q[[3, 20]].isneginf().all())
    assert_close(log_q[some], of_part, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spread", [30.0, 1e4, 1e6])
def test_soft_best_of_two_is_the_sum_over_pairs_at_every_spread_of_the_reward(spread: float):
    generator = torch.Generator().manual_seed(0)
    log_prior = torch.randn(7, 1, generator=generator).double().log_softmax(0)
    reward = spread * torch.rand(7, 1, generator=generator).double()
    prob = log_prior.exp()[:, 0]
    share = (reward - reward[:, 0]).sigmoid()  # of the first of two draws
    expected = 2 * prob * (share @ prob)
    log_q = soft_best_of_n(Problem(log_prior, reward, 1.0), n=2)[:, 0]
    assert_close(log_q.exp(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    ["forward-kl", "token-forward-kl", "grpo-k3", "grpo-token-k3", "grpo-mean-k3", "chi-squared"],
)
def test_prior_of_a_tiny_share_for_the_best_response_has_a_target(name: str) -> None:
    log_prior = torch.tensor([[0.0], [-80.0]]).double().log_softmax(0)
    response = torch.tensor([[[0]], [[1]]])
    reward = torch.tensor([[0.0], [1.0]])
    problem = Problem(log_prior, reward, 0.1, response, torch.ones(2, 1).long())
    log_q = TARGETS[name](problem)
    assert log_q.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert log_q[1, 0] > log_prior[1, 0]


# Numbers and identities


@pytest.mark.parametrize(
    ("beta", "success", "of_posterior"), [(2.0, 0.4087, 0.2919), (5.0, 0.2807, 0.2339)]
)
def test_grpo_moves_a_binary_reward_further_than_the_posterior(
    beta: float, success: float, of_posterior: float
) -> None:
    problem = binary(0.2, beta)
    p = TARGETS["grpo"](problem)[1, 0].exp().item()
    assert p == pytest.approx(success, abs=5e-5)
    assert TARGETS["posterior"](problem)[1, 0].exp().item() == pytest.approx(of_posterior, abs=5e-5)
    shift = math.log(p / (1 - p)) - math.log(0.2 / 0.8)
    assert shift == pytest.approx(1 / (beta * math.sqrt(p * (1 - p))), rel=1e-9)


@pytest.mark.parametrize(
    ("success", "least"), [(0.05, 0.571), (0.1, 0.697), (0.2, 0.896), (0.5, 1.509), (0.9, 4.137)]
)
def test_grpo_has_no_target_below_a_beta(success: float, least: float) -> None:
    with pytest.raises(NoFixedPointError, match=r"expected beta of at least ([\d.]+)") as error:
        TARGETS["grpo"](binary(success, 0.99 * least))
    assert float(str(error.value).split()[-1]) == pytest.approx(least, abs=2e-3)
    assert TARGETS["grpo"](binary(success, 1.01 * least))[1, 0].exp() > success


def test_one_token_makes_both_forms_of_k3_one() -> None:
    generator = torch.Generator().manual_seed(1)
    log_prior, reward = (torch.randn(9, 2, generator=generator).double() for _ in range(2))
    response = torch.arange(9).view(9, 1, 1).expand(9, 2, 1)
    length = torch.ones(9, 2).long()
    problem = Problem(log_prior.log_softmax(0), reward, 1.2, response, length)
    for of_tokens, of_response in (
        ("grpo-token-k3", "grpo-k3"),
        ("grpo-mean-k3", "grpo-k3"),
        ("token-forward-kl", "forward-kl"),
        ("token-reverse-kl", "posterior"),
        ("grpo-token-kl", "grpo"),
    ):
        pair = TARGETS[of_tokens](problem), TARGETS[of_response](problem)
        assert_close(*pair, atol=1e-9, rtol=0)


def test_chi_squared_keeps_ratios_small(problem: Problem) -> None:
    log_ratio = TARGETS["chi-squared"](problem) - problem.log_prior
    z, scaled = log_ratio.exp(), problem.reward / BETA
    shift = scaled - z - log_ratio
    assert_close(shift, shift[:1].expand_as(shift))
    assert log_ratio.max() < (TARGETS["posterior"](problem) - problem.log_prior).max()


def test_mirror_descent_with_the_mean_nears_the_posterior_in_small_steps(problem: Problem) -> None:
    posterior = TARGETS["posterior"](problem)

    def distance(num_steps: int) -> float:
        log_q = mean_mirror_descent(problem, num_steps)
        return (log_q.exp() * (log_q - posterior)).sum(0).mean().item()

    assert distance(1) > 1e-3
    assert distance(64) < 0.02 * distance(1)


def test_length_normalised_balance_prefers_long_responses(problem: Problem) -> None:
    assert problem.length is not None
    log_q = TARGETS["length-normalised"](problem)
    log_ratio = (log_q - problem.log_prior) / problem.length - problem.reward / BETA
    assert_close(log_ratio, log_ratio[:1].expand_as(log_ratio))


def test_anchored_modes_have_one_mass(problem: Problem) -> None:
    log_q = TARGETS["mode-anchored"](problem, threshold=0.8)
    for n in range(2):
        modes = log_q[problem.reward[:, n] >= 0.8, n]
        assert len(modes) > 3
        assert_close(modes, modes[:1].expand_as(modes))


def test_pass_at_1_is_the_posterior_and_pass_at_k_lifts_prompts_that_rarely_succeed() -> None:
    for success in (0.01, 0.9):
        problem = binary(success, 1.0)
        log_p, one, four = (
            TARGETS["posterior"](problem),
            *(TARGETS["pass-at-k"](problem, k=k, threshold=0.5) for k in (1, 4)),
        )
        assert_close(one, log_p, rtol=0, atol=1e-12)
        assert (four[1] > one[1]).item() == (success == 0.01)
        shift = (four - problem.log_prior).diff(dim=0)
        assert_close(shift, 4 * four[:1].exp() ** 3, rtol=1e-9, atol=0)


def test_best_of_one_is_the_posterior_and_best_of_k_gains_less_at_the_top(problem) -> None:
    """The slope of log q/p0 by the reward rises to k/beta at the largest reward of all."""
    one, four = (TARGETS["max-at-k"](problem, k=k) for k in (1, 4))
    assert_close(one, TARGETS["posterior"](problem), rtol=0, atol=1e-12)
    order = problem.reward[:, 0].argsort()
    reward, ratio, q = (x[order, 0] for x in (problem.reward, four - problem.log_prior, four.exp()))
    slope = 4 * q.cumsum(0)[:-1] ** 3 / BETA
    assert_close(ratio.diff() / reward.diff(), slope, rtol=1e-9, atol=1e-11)  # small differences


@pytest.mark.parametrize("threshold", [-99.0, 99.0])
def test_pass_at_k_leaves_the_prior_where_all_or_none_succeed(threshold, problem) -> None:
    for k in (1, 4):
        log_q = TARGETS["pass-at-k"](problem, k=k, threshold=threshold)
        assert_close(log_q, problem.log_prior, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_is_the_sum_over_all_draws(n: int) -> None:
    generator = torch.Generator().manual_seed(2)
    prior = torch.rand(5, 1, generator=generator).double()
    prior /= prior.sum()
    reward = torch.tensor([[0.3], [1.0], [1.0], [-0.5], [2.0]]).double()
    problem = Problem(prior.log(), reward, 0.6)
    hard, soft = torch.zeros(5).double(), torch.zeros(5).double()
    for draws in product(range(5), repeat=n):
        mass = prior[list(draws), 0].prod()
        values = reward[list(draws), 0]
        for weights, total in (
            ((values == values.max()).double(), hard),
            ((values / 0.6).exp(), soft),
        ):
            total.index_add_(0, torch.tensor(draws), mass * weights / weights.sum())
    assert_close(best_of_n_target(problem, n).exp()[:, 0], hard)
    assert_close(soft_best_of_n(problem, n).exp()[:, 0], soft, rtol=1e-9, atol=0)


@pytest.mark.parametrize("beta", [0.9, 0.02])
def test_soft_best_of_n_nears_the_posterior_by_its_bound(problem: Problem, beta: float) -> None:
    problem = Problem(problem.log_prior, problem.reward, beta)
    posterior = TARGETS["posterior"](problem)
    log_weight = problem.reward / beta
    log_square = (problem.log_prior + 2 * log_weight).logsumexp(0)
    log_mean = (problem.log_prior + log_weight).logsumexp(0)
    squared_cv = (log_square - 2 * log_mean).expm1()
    distances = []
    for n in (1, 4, 16, 64):
        log_q = soft_best_of_n(problem, n)
        kl = (posterior.exp() * (posterior - log_q)).sum(0)
        assert (kl <= (squared_cv / n).log1p() + 1e-9).all()
        distances.append(kl.mean().item())
    assert distances == sorted(distances, reverse=True)


def test_quantile_reward_has_the_known_z_in_the_limit_of_many_levels() -> None:
    beta, errors = 0.1, []
    formula = beta * math.expm1(1 / beta)
    for size in (400, 1600):
        log_prior = torch.full((size, 1), -math.log(size)).double()
        reward = torch.arange(size).double()[:, None] ** 3
        log_q = TARGETS["quantile"](Problem(log_prior, reward, beta))
        log_z = (1 / beta + log_prior[-1] - log_q[-1]).item()  # the quantile of the best is 1
        truth = sum(math.exp(k / (size * beta)) for k in range(1, size + 1)) / size
        assert math.exp(log_z) == pytest.approx(truth, rel=1e-9)
        errors.append(math.exp(log_z) / formula - 1)
    assert errors[0] == pytest.approx(1 / (2 * 400 * beta), rel=0.02)  # half a jump of R
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.02)


# Worlds and refusals


def test_problem_of_a_model_is_its_enumeration() -> None:
    prior = grammar_prior(max_new_tokens=2)
    prompts = prior.encode(["the film was", "the"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), beta=0.4)
    problem = Problem.of(model, prompts)
    assert_close(TARGETS["posterior"](problem), Enumeration(model, prompts).log_posterior)
    for name in ("grpo-token-k3", "token-forward-kl", "token-reverse-kl", "length-normalised"):
        log_q = TARGETS[name](problem)
        assert size_of_update(UPDATES[name], log_q, problem) < 1e-10


def test_what_is_no_problem_is_refused(problem: Problem) -> None:
    bare = Problem(problem.log_prior, problem.reward, BETA)
    with pytest.raises(ValueError, match="'grpo-token-k3' depends on tokens"):
        TARGETS["grpo-token-k3"](bare)
    with pytest.raises(ValueError, match="beta is 0"):
        Problem(problem.log_prior, problem.reward, 0)
    with pytest.raises(ValueError, match="the reward is infinite or NaN"):
        Problem(problem.log_prior, problem.reward.log(), BETA)
    with pytest.raises(ValueError, match=r"log_prior has shape \(40, 2\) and reward \(40, 1\)"):
        Problem(problem.log_prior, problem.reward[:, :1], BETA)
    with pytest.raises(ValueError, match="no response to some prompt has a reward of at least 99"):
        TARGETS["filtering"](problem, threshold=99)
    with pytest.raises(ValueError, match="k is 0"):
        TARGETS["pass-at-k"](problem, k=0, threshold=0.5)
    prior = grammar_prior(max_new_tokens=2)
    factors = {"long": lambda _, response: torch.zeros(response.shape[:-1])}
    model = AlignmentModel(prior, {}, 1.0, factors)
    with pytest.raises(ValueError, match=r"the model has the factors \['long'\]"):
        Problem.of(model, prior.encode(["the"]))
    odd = {"odd": lambda _, response: (response[..., 0] % 2).double().log()}
    with pytest.raises(ValueError, match="the reward is infinite or NaN"):
        Problem.of(AlignmentModel(prior, odd | factors, 1.0), prior.encode(["the"]))
