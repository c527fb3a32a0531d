"""Population minimisers of DPO and its relatives, over all pairs of responses."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from guides import LoRA, Tabular
from inference import Enumeration
from inference.direct_preferences import (
    LIKELIHOODS,
    LINKS,
    PreferenceProgram,
    ResponseLabels,
    ResponseLists,
    ResponsePairs,
    alpha_divergence,
    bco,
    bradley_terry,
    exo,
    fit_preferences,
    info_nca,
    kto,
    margin,
    positive_dpo,
    robust,
    robust_mean,
    smoothed,
    with_chosen,
)
from inference.direct_preferences.of_batch import quantiles
from inference.targets.fixed_points import TARGETS, Problem
from model import AlignmentModel, TokenReward
from model.preferences import (
    FIRST,
    SECOND,
    TIE,
    Preference,
    PreferenceError,
    Ranking,
    log_ranking,
    simulate,
)
from model.prior.grammar import untrained_prior

BETA = 0.4


@pytest.fixture(scope="module")
def prior():
    return untrained_prior(4, 2, initializer_range=0.15, seed=0).double()


@pytest.fixture(scope="module")
def prompts(prior):
    return prior.encode(["w1"])


@pytest.fixture(scope="module")
def truth(prior, prompts):
    table = torch.rand(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reward = TokenReward(lambda response, _: table[response[..., 0], response[..., 1]], prior)
    return Enumeration(AlignmentModel(prior, reward, BETA), prompts)


@pytest.fixture(scope="module")
def reward(truth):
    return BETA * truth.log_likelihood[:, 0]


@pytest.fixture(scope="module")
def all_pairs(truth, prompts, reward):
    """Every ordered pair in proportion to p0(x) p0(y) P(x beats y), for the reward's judge."""
    first, second = torch.cartesian_prod(*[torch.arange(len(reward))] * 2).T
    log_prior = truth.log_prior[:, 0]
    log_weight = log_prior[first] + log_prior[second] + logsigmoid(reward[first] - reward[second])
    response = torch.stack([truth.support[first, 0], truth.support[second, 0]])
    outcome = torch.full((len(first),), FIRST)
    return ResponsePairs(prompts[[0] * len(first)], response, outcome, log_weight.exp())


def guide_of(log_q: Tensor, prior, prompts, truth) -> Tabular:
    """The tabular guide that is a given distribution, `[S]`."""
    guide = Tabular(prior, prompts)
    support = truth.support[:, 0]
    with torch.no_grad():
        first = torch.stack([log_q[support[:, 0] == token].logsumexp(0) for token in range(4)])
        guide.table[0, 0] = first
        for word in (1, 2, 3):
            rows = support[:, 0] == word
            guide.table[0, word, support[rows, 1]] = log_q[rows]
    assert_close(truth.log_guide(guide)[:, 0], log_q, rtol=0, atol=1e-9)
    return guide


def gradient(log_q, pairs, prior, prompts, truth, reference=..., **choices) -> float:
    """Largest entry of the gradient of the population loss at a distribution."""
    guide = guide_of(log_q, prior, prompts, truth)
    reference = prior if reference is ... else reference
    program = PreferenceProgram(guide, reference, BETA, **choices)
    loss = (pairs.weight * program.log_likelihood(pairs)).sum()
    (slope,) = torch.autograd.grad(loss, [guide.table])
    return slope.abs().max().item()


def inverse_link(name: str, values: Tensor) -> Tensor:
    """log u with f'(u) = value."""
    ends = (-100.0, 100.0)
    link = LINKS[name]

    def root(value: float) -> float:
        return brentq(
            lambda x: link(torch.tensor(x, dtype=torch.float64)).item() - value, *ends, xtol=1e-14
        )

    return torch.tensor([root(value) for value in values.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("likelihood", ["dpo", "ipo", "discopop"])
def test_a_response_far_from_the_prior_has_a_finite_gradient(link, likelihood):
    for far in (-1500.0, 1500.0):
        log_ratio = torch.tensor([[0.0], [far]]).double().requires_grad_()
        rewards = LINKS[link](log_ratio)
        score = LIKELIHOODS[likelihood](rewards, torch.tensor([FIRST]), 1.0).sum()
        (slope,) = torch.autograd.grad(score, [log_ratio])
        assert score.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize("link", LINKS)
def test_rich_guide_with_the_penalty_of_a_divergence_is_the_minimiser_of_dpo(
    link, all_pairs, prior, prompts, truth, reward
):
    """beta f'(q/p0) = r + c for every response; for KL(q || p0) q is the posterior."""
    log_prior = truth.log_prior[:, 0]
    top = {"forward-kl": -1e-6, "jensen-shannon": -1e-6, "alpha": 2 - 1e-6}.get(link, 30.0)

    def total(shift: float) -> float:
        values = (reward / BETA - shift).clamp(max=top)
        return (log_prior + inverse_link(link, values)).logsumexp(0).item()

    low = (reward / BETA).max().item() - top
    shift = brentq(total, low, low + 60, xtol=1e-14)
    log_q = log_prior + inverse_link(link, reward / BETA - shift)
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth, "link": link}
    assert gradient(log_q.log_softmax(0), **choices) < 1e-8
    assert gradient(log_prior, **choices) > 1e-3
    if link == "reverse-kl":
        assert_close(log_q, truth.log_posterior[:, 0], rtol=0, atol=1e-9)
    else:
        assert gradient(truth.log_posterior[:, 0], **choices) > 1e-4


def test_ipo_has_the_probability_of_winning_as_its_reward(all_pairs, prior, prompts, truth, reward):
    """q prop. to p0 exp(P(x beats y ~ p0)/beta)."""
    prob = truth.log_prior[:, 0].exp()
    wins = ((reward[:, None] - reward).sigmoid() * prob).sum(1)
    log_q = (truth.log_prior[:, 0] + wins / BETA).log_softmax(0)
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth}
    assert gradient(log_q, **choices, likelihood="ipo") < 1e-8
    assert gradient(truth.log_posterior[:, 0], **choices, likelihood="ipo") > 1e-3


def per_token(log_prior: Tensor, truth, reward) -> Tensor:
    """log q prop. to p0 exp(|x| (r/beta - c)), `[S]`, by the roots of c; |x| with the end."""
    length = (truth.support[:, 0] != 0).sum(-1).clamp(max=1) + 1  # w, w w, and the end alone

    def log_q(shift: float) -> Tensor:
        return log_prior + length * (reward / BETA - shift)

    shift = brentq(lambda c: log_q(c).logsumexp(0).item(), -50, 50, xtol=1e-14)
    return log_q(shift).log_softmax(0)


@pytest.mark.parametrize("has_reference", [True, False])
def test_rewards_per_token_have_the_target_of_a_balance_per_token(
    has_reference, all_pairs, prior, prompts, truth, reward
):
    """Length-normalised DPO, and SimPO without margin, which puts no prior into its target."""
    log_prior = truth.log_prior[:, 0] if has_reference else torch.zeros_like(reward)
    log_q = per_token(log_prior, truth, reward)
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth}
    choices |= {"reference": prior if has_reference else None, "per_token": True}
    assert gradient(log_q, **choices) < 1e-8
    for other in (truth.log_posterior[:, 0], truth.log_prior[:, 0]):
        assert gradient(other, **choices) > 1e-4
    assert gradient(log_q, **choices, likelihood="margin") > 1e-4
    length = prior.space.is_token(truth.support).sum(-1)
    size = math.log(prior.space.vocab_size)
    log_p = truth.log_prior if has_reference else -length * size
    problem = Problem(log_p, reward[:, None], BETA, truth.support, length)
    assert_close(TARGETS["length-normalised"](problem)[:, 0], log_q, rtol=0, atol=1e-9)


def test_alpha_po_has_a_power_of_the_reward_as_its_mean_probability_of_a_token(
    all_pairs, prior, prompts, truth, reward
):
    length, alpha = prior.space.is_token(truth.support).sum(-1)[:, 0], 0.25

    def log_q(shift: float) -> Tensor:
        return -length / alpha * torch.log1p(-alpha * (reward / BETA + shift))

    shift = brentq(lambda c: log_q(c).logsumexp(0).item(), -50, -reward.max() / BETA, xtol=1e-14)
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth}
    choices |= {"reference": None, "per_token": True}
    assert gradient(log_q(shift), **choices, link=alpha_divergence(alpha)) < 1e-8
    assert gradient(log_q(shift), **choices) > 1e-4


def test_training_without_a_reference_reads_no_prior(prior):
    pairs = ResponsePairs.of([Preference("w1", " w2 w3", " w3")], prior)
    guide = LoRA(prior, rank=2)
    options = {"likelihood": "margin", "per_token": True}
    program = PreferenceProgram(guide, None, 2.0, **options)
    log_q = guide.distribution(pairs.prompts).log_prob(pairs.response)[:, 0].double()
    of_tokens = 2 * (log_q[0] / 2 - log_q[1] / 2)  # w2 w3, and w3 with its end
    expected = -math.log1p(math.exp(0.5 - of_tokens.item()))
    assert program.log_likelihood(pairs).item() == pytest.approx(expected, abs=1e-6)
    ipo = PreferenceProgram(guide, None, 2.0, likelihood="ipo", per_token=True)  # as in CPO
    expected = -((of_tokens.item() / 2 - 1 / 4) ** 2)
    assert ipo.log_likelihood(pairs).item() == pytest.approx(expected, abs=1e-6)
    losses = fit_preferences(program, pairs, num_steps=20, learning_rate=0.01, progress=False)
    assert losses[-1]["loss"] < losses[0]["loss"] - 1e-3


def test_label_noise_of_the_judge_belongs_into_the_likelihood(
    all_pairs, prior, prompts, truth, reward
):
    flip = 0.2
    first, second = all_pairs.response
    index = {tuple(row): i for i, row in enumerate(truth.support[:, 0].tolist())}
    rows = [[index[tuple(row)] for row in side.tolist()] for side in (first, second)]
    log_prior = truth.log_prior[:, 0]
    difference = reward[rows[0]] - reward[rows[1]]
    wins = (1 - flip) * difference.sigmoid() + flip * (-difference).sigmoid()
    weight = (log_prior[rows[0]] + log_prior[rows[1]]).exp() * wins
    noisy = ResponsePairs(all_pairs.prompts, all_pairs.response, all_pairs.outcome, weight)
    choices = {"pairs": noisy, "prior": prior, "prompts": prompts, "truth": truth}
    log_q = truth.log_posterior[:, 0]
    assert gradient(log_q, **choices, likelihood=bradley_terry(flip=flip)) < 1e-8
    assert gradient(log_q, **choices, likelihood=robust(flip)) < 1e-8
    assert gradient(log_q, **choices) > 1e-3
    assert gradient(log_q, **choices, likelihood=smoothed(flip)) > 1e-3


OF_LABELS = {"kto", "bco"}
OF_BATCH = {"dr-dpo", "aot"}
OF_LIST = {"plackett-luce", "info-nca"}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS.keys() - OF_LABELS - OF_BATCH - OF_LIST))
def test_likelihoods_are_those_of_their_papers(name):
    rewards = torch.tensor([[-0.5, -2.0, -1.0], [-1.5, -0.1, -0.3]]).double()
    outcome, beta, e = torch.tensor([FIRST, SECOND, TIE]), 0.3, 0.1

    def preferred(chosen: float, rejected: float) -> float:
        h = chosen - rejected
        p = 1 / (1 + math.exp(-beta * h))
        log_odds = [math.log(math.exp(r) / (1 - math.exp(r))) for r in (chosen, rejected)]
        return {
            "dpo": math.log(p),
            "cdpo": (1 - e) * math.log(p) + e * math.log(1 - p),
            "rdpo": ((1 - e) * math.log(p) - e * math.log(1 - p)) / (1 - 2 * e),
            "margin": -math.log1p(math.exp(0.5 - beta * h)),
            "ipo": -((h - 1 / (2 * beta)) ** 2),
            "exo": -p * math.log(p / (1 - e)) - (1 - p) * math.log((1 - p) / e),
            "slic": -max(0.0, 1 - beta * h),
            "dpop": -math.log1p(math.exp(-beta * (h - 50 * max(0.0, -chosen)))),
            "nca": -math.log1p(math.exp(-beta * chosen))
            - (math.log1p(math.exp(beta * chosen)) + math.log1p(math.exp(beta * rejected))) / 2,
            "sppo": -((chosen - 1 / (2 * beta)) ** 2) - (rejected + 1 / (2 * beta)) ** 2,
            "apo-down": p - 1 - 1 / (1 + math.exp(-beta * chosen)),
            "discopop": (share := 1 / (1 + math.exp(-beta * h / 0.05))) * -math.exp(-beta * h)
            + (1 - share) * math.log(p),
            "orpo": chosen - beta * math.log1p(math.exp(log_odds[1] - log_odds[0])),
        }[name]

    tie = (preferred(-1.0, -0.3) + preferred(-0.3, -1.0)) / 2
    expected = torch.tensor([preferred(-0.5, -1.5), preferred(-0.1, -2.0), tie]).double()
    assert_close(LIKELIHOODS[name](rewards, outcome, beta), expected)


def test_likelihoods_of_a_batch_are_those_of_their_papers():
    """A weight of 2 is the pair twice, and a tie half a pair each way."""
    rewards = torch.tensor([[0.7, 0.4, 1.0], [-1.5, 2.0, 0.3]]).double()
    outcome, weight = torch.tensor([FIRST, SECOND, TIE]), torch.tensor([2.0, 1.0, 2.0]).double()
    chosen = torch.tensor([0.7, 0.7, 2.0, 1.0, 0.3]).double()
    rejected = torch.tensor([-1.5, -1.5, 0.4, 0.3, 1.0]).double()
    log_prob = logsigmoid(0.3 * (chosen - rejected))
    distance = chosen.sort().values - rejected.sort().values
    for name, mean in {
        "dr-dpo": 2 * (log_prob / 2).exp().mean().log(),
        "aot": logsigmoid(0.3 * distance).mean(),
    }.items():
        actual = LIKELIHOODS[name](rewards, outcome, 0.3, weight)
        assert_close(actual, mean.expand(3), rtol=1e-12, atol=0)
        same = LIKELIHOODS[name](rewards[:, [0, 0, 1, 2, 2]], outcome[[0, 0, 1, 2, 2]], 0.3)
        assert_close(same, mean.expand(5), rtol=1e-12, atol=0)


def test_dr_dpo_has_the_posterior_at_a_smaller_beta(all_pairs, prior, prompts, truth, reward):
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth}
    log_prior = truth.log_prior[:, 0]
    for size in (1.5, 2.0, 10.0):
        log_q = (log_prior + reward / BETA * size / (size - 1)).log_softmax(0)
        assert gradient(log_q, **choices, likelihood=robust_mean(size)) < 1e-8
        assert gradient(truth.log_posterior[:, 0], **choices, likelihood=robust_mean(size)) > 1e-4


def test_aot_and_dr_dpo_at_one_have_no_optimum(all_pairs, prior, prompts, truth, reward):
    """The log-likelihood rises along p0 exp(t r), where that of DPO falls beyond t = 1/beta."""
    gains = {}
    for name, likelihood in {"dpo": "dpo", "aot": "aot", "dr-dpo": robust_mean(1.0)}.items():
        values = []
        for t in (0.5, 1.0, 2.0, 4.0, 8.0):
            log_q = (truth.log_prior[:, 0] + t * reward / BETA).log_softmax(0)
            guide = guide_of(log_q, prior, prompts, truth)
            program = PreferenceProgram(guide, prior, BETA, likelihood=likelihood)
            values.append((all_pairs.weight @ program.log_likelihood(all_pairs)).item())
        gains[name] = torch.tensor(values).diff()
    assert (gains["dpo"] > 0).tolist() == [True, False, False, False]
    assert (gains["aot"] > 1e-3).all()
    assert (gains["dr-dpo"] > 1e-4).all()
    unweighted = replace(all_pairs, weight=torch.zeros_like(all_pairs.weight))
    for likelihood in ("aot", "dr-dpo"):
        program = PreferenceProgram(guide, prior, BETA, likelihood=likelihood)
        assert program.log_likelihood(unweighted).isfinite().all()


def test_aot_may_have_another_response_than_the_best_on_top():
    reward, prior = torch.tensor([0.0, 1.0, 1.2]).double(), torch.tensor([0.1, 0.8, 0.1]).double()
    first, second = torch.cartesian_prod(*[torch.arange(3)] * 2).T
    weight = prior[first] * prior[second] * torch.sigmoid(reward[first] - reward[second])
    losses = []
    for order in ([0, 1, 2], [0, 2, 1]):
        log_ratio = 100 * torch.tensor(order).double()
        sides = log_ratio[first], log_ratio[second]
        losses.append(-quantiles(*sides, weight / weight.sum(), 1.0).item())
    assert losses == pytest.approx([0.616, 0.594], abs=1e-3)


def test_a_term_of_the_chosen_response_is_added():
    rewards = torch.tensor([[0.5, 2.0, -1.0], [1.5, 0.0, 0.3]]).double()
    outcome = torch.tensor([FIRST, SECOND, TIE])
    expected = LIKELIHOODS["dpo"](rewards, outcome, 0.3) + 2 * torch.tensor([0.5, 0.0, -0.35])
    assert_close(with_chosen(2.0)(rewards, outcome, 0.3), expected)


def test_an_offset_is_a_margin_of_each_pair_that_follows_its_pair(all_pairs, prior, prompts, truth):
    guide = guide_of(truth.log_posterior[:, 0], prior, prompts, truth)
    program = PreferenceProgram(guide, prior, BETA)
    reversed_pairs = replace(all_pairs, outcome=torch.full_like(all_pairs.outcome, SECOND))
    offset = torch.linspace(0, 2, len(all_pairs), dtype=torch.float64)
    for pairs in (all_pairs, reversed_pairs):
        actual = program.log_likelihood(replace(pairs, offset=offset)[[3, 1]])
        for place, row in enumerate((3, 1)):
            one = PreferenceProgram(guide, prior, BETA, likelihood=margin(offset[row].item()))
            assert_close(actual[place], one.log_likelihood(pairs[[row]])[0])
    positive = PreferenceProgram(guide, prior, BETA, likelihood="dpop")
    with pytest.raises(ValueError, match="have an offset, expected a likelihood of the difference"):
        positive.log_likelihood(replace(all_pairs, offset=offset))
    with pytest.raises(ValueError, match=r"offset has shape \(2,\), expected"):
        replace(all_pairs, offset=torch.ones(2))


def test_dpo_with_the_kl_of_tokens_has_the_target_of_controlled_decoding(
    all_pairs, prior, prompts, truth, reward
):
    """p0 exp(Q/beta) at each token, Q the mean reward of the responses that p0 goes on with."""
    log_prior, response = truth.log_prior[:, 0], truth.support[:, 0]
    first = response[:, 0]
    same = first[:, None] == first
    given = log_prior.expand_as(same).masked_fill(~same, -torch.inf).softmax(1)  # of the response
    mass = log_prior.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)
    log_token = mass + (given @ reward) / BETA
    each = torch.stack([log_token[first == token][0] for token in first.unique()]).logsumexp(0)
    log_last = given.log().diagonal() + reward / BETA
    within = log_last.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)
    log_q = log_token - each + log_last - within
    choices = {"pairs": all_pairs, "prior": prior, "prompts": prompts, "truth": truth}
    assert gradient(log_q, **choices, token_kl=True) < 1e-8
    assert gradient(log_q, **choices) > 1e-4
    assert gradient(truth.log_posterior[:, 0], **choices, token_kl=True) > 1e-4


# labels


@pytest.mark.parametrize("is_right", [True, False])
def test_bco_has_the_posterior_of_the_log_odds_at_the_right_shift(
    is_right, prior, prompts, truth, reward
):
    log_z = (truth.log_prior[:, 0] + reward / BETA).logsumexp(0).item()
    likelihood = bco(shift=-BETA * log_z + (0.0 if is_right else 0.1))
    good = reward.sigmoid()
    weight = truth.log_prior[:, 0].exp() * torch.stack([good, 1 - good])
    labels = torch.tensor([FIRST, SECOND]).repeat_interleave(len(reward))
    response = truth.support[:, 0].repeat(2, 1)[None]
    data = ResponseLabels(prompts[[0] * len(labels)], response, labels, weight.flatten())
    choices = {"pairs": data, "prior": prior, "prompts": prompts, "truth": truth}
    slope = gradient(truth.log_posterior[:, 0], **choices, likelihood=likelihood)
    assert slope < 1e-8 if is_right else slope > 1e-3


def test_the_shift_of_bco_is_the_mean_reward():
    rewards, labels = torch.tensor([[0.4, -0.2, 0.1]]).double(), torch.tensor([FIRST, SECOND, TIE])
    expected = bco(shift=0.03)(rewards, labels, 0.3)
    assert_close(LIKELIHOODS["bco"](rewards, labels, 0.3), expected)


# KTO


def test_kto_is_the_loss_of_its_paper():
    """Value of a desirable and of an undesirable response, half of both for a tie."""
    rewards = torch.tensor([[0.5, 2.0, -1.0], [1.5, 0.0, 0.3]]).double()
    outcome, beta = torch.tensor([FIRST, SECOND, TIE]), 0.3
    z = 3.3 / 6  # the mean of all rewards

    def value(r: float, is_desirable: bool) -> float:
        sign = 1 if is_desirable else -1
        weight = 2.0 if is_desirable else 0.5
        return weight * (1 / (1 + math.exp(-sign * beta * (r - z))) - 1)

    of_pairs = [
        value(0.5, True) + value(1.5, False),
        value(2.0, False) + value(0.0, True),
        sum(value(r, label) for r in (-1.0, 0.3) for label in (True, False)) / 2,
    ]
    likelihood = kto(desirable=2.0, undesirable=0.5)
    assert_close(likelihood(rewards, outcome, beta), torch.tensor(of_pairs).double())
    assert LIKELIHOODS["kto"](rewards, outcome, beta).max() < 0
    z = 0.0  # the mean of log q/p0 is below 0
    low = torch.tensor([[-0.4, -0.2]]).double()
    labels = torch.tensor([FIRST, SECOND])
    expected = torch.tensor([value(-0.4, True), value(-0.2, False)]).double()
    assert_close(likelihood(low, labels, beta), expected)
    z = 1.5
    expected = torch.tensor([value(-0.4, True), value(-0.2, False)]).double()
    for reference in (z, lambda rewards: rewards.mean().clamp(min=z)):
        at_constant = kto(desirable=2.0, undesirable=0.5, reference=reference)
        assert_close(at_constant(low, labels, beta), expected)


def minimiser_of_kto(c: Tensor, log_prior: Tensor, z: float) -> Tensor:
    """log q, `[S]`, at the maximum of E_p0[c sigmoid(beta (log u - z))] with E_p0[u] = 1.

    c beta sigmoid'(beta (log u - z)) = lambda u where c > 0, and u = 0 elsewhere.
    """

    def slope(log_u: float, c: float) -> float:
        """log of the derivative by u; decreases in u for beta below 1."""
        x = torch.tensor(BETA * (log_u - z), dtype=torch.float64)
        return math.log(c * BETA) + (logsigmoid(x) + logsigmoid(-x)).item() - log_u

    def log_u(log_size: float) -> Tensor:
        rows = [
            brentq(lambda x, c=c: slope(x, c) - log_size, -200, 200, xtol=1e-14) if c > 0 else -150
            for c in c.tolist()
        ]
        return torch.tensor(rows, dtype=torch.float64)

    log_size = brentq(lambda s: (log_prior + log_u(s)).logsumexp(0).item(), -9, 9, xtol=1e-14)
    return (log_prior + log_u(log_size)).log_softmax(0)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 1.0)])
@pytest.mark.parametrize("is_kl", [False, True])
def test_kto_filters_by_the_share_of_desirable_responses(
    is_kl, weights, prior, prompts, truth, reward
):
    """The gradient of the population loss vanishes at the closed form, and not at p* or p0."""
    log_prior = truth.log_prior[:, 0]
    g = ((8 * (reward[:, None] - reward)).sigmoid() * log_prior.exp()).sum(1)
    c = weights[0] * g - weights[1] * (1 - g)
    assert (c > 0).any()
    assert (c < 0).any()
    z = 0.0
    for _ in range(60 if is_kl else 1):
        log_q = minimiser_of_kto(c, log_prior, z)
        z = (log_q.exp() @ (log_q - log_prior)).item() if is_kl else 0.0
    size = len(g)
    labels = ResponseLabels(
        prompts[[0] * 2 * size],
        truth.support[:, 0].repeat(2, 1)[None],
        torch.tensor([FIRST] * size + [SECOND] * size),
        torch.cat([log_prior.exp() * g, log_prior.exp() * (1 - g)]),
    )
    likelihood = kto(desirable=weights[0], undesirable=weights[1], reference=z)
    choices = {"pairs": labels, "prior": prior, "prompts": prompts, "truth": truth}
    assert gradient(log_q, **choices, likelihood=likelihood) < 1e-9
    assert gradient(truth.log_posterior[:, 0], **choices, likelihood=likelihood) > 1e-3
    assert gradient(log_prior, **choices, likelihood=likelihood) > 1e-3
    ratio = (log_q - log_prior).exp()
    assert (ratio[c < 0] < 1e-30).all()
    order = c.argsort()
    assert (ratio[order].diff()[c[order][1:] > 0] > 0).all()


def test_draws_of_the_prior_put_the_reference_point_at_zero(truth):
    """E_p0[log q/p0] = -KL(p0 || q), at most 0."""
    log_prior = truth.log_prior[:, 0].exp()
    draws = log_prior.cpu().multinomial(500, True, generator=torch.Generator().manual_seed(0))
    log_ratio = (truth.log_posterior - truth.log_prior)[draws, 0]
    labels = torch.full((500,), FIRST)
    actual = LIKELIHOODS["kto"](log_ratio[None], labels, BETA)
    assert_close(actual, kto(reference=0.0)(log_ratio[None], labels, BETA))


def test_labels_of_one_kind_are_warned_of(prior):
    guide = Tabular(prior, prior.encode(["w1"]))
    program = PreferenceProgram(guide, prior, 1.0, likelihood="kto")
    for label, kind in ((True, "desirable"), (False, "undesirable")):
        labels = ResponseLabels.of_texts(["w1", "w1"], [" w2", " w3"], [label] * 2, prior)
        with pytest.warns(UserWarning, match=f"all 2 labelled responses are {kind}"):
            fit_preferences(program, labels, num_steps=1, progress=False)


def test_labels_train_by_kto_alone(prior):
    labels = ResponseLabels.of_texts(["w1", "w1"], [" w2", " w3 w3"], [True, False], prior)
    assert labels.response.tolist() == [[[2, 0], [3, 3]]]
    preferences = [Preference("w1", " w2", " w3 w3"), Preference("w2", " w1", " w3", tie=True)]
    both = ResponseLabels.of(preferences, prior)
    assert both.response.tolist() == [[[2, 0], [1, 0], [3, 3], [3, 0]]]
    assert both.outcome.tolist() == [FIRST, TIE, SECOND, TIE]
    guide = LoRA(prior, rank=2)
    program = PreferenceProgram(guide, prior, BETA, likelihood="kto")
    options = {"num_steps": 20, "learning_rate": 0.01, "progress": False}
    metrics = fit_preferences(program, labels, **options)
    assert metrics[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert metrics[-1]["loss"] < 0.499
    for name in sorted(LIKELIHOODS.keys() - OF_LABELS):
        other = PreferenceProgram(guide, prior, BETA, likelihood=name)
        with pytest.raises(ValueError, match="compares pairs, got labelled responses: use `kto`"):
            other.log_likelihood(labels)
    with pytest.raises(PreferenceError, match="1 prompts, 2 responses and 1 labels"):
        ResponseLabels.of_texts(["w1"], [" w2", " w3"], [True], prior)
    for label in ("False", -1, None, math.nan):
        with pytest.raises(PreferenceError, match=f"label of preference 1 is {label!r}, expected"):
            ResponseLabels.of_texts(["w1", "w1"], [" w2", " w3"], [True, label], prior)
    with pytest.raises(ValueError, match="desirable is 0"):
        kto(desirable=0)


def test_training_on_simulated_preferences_comes_near_the_posterior(prior, prompts, truth, reward):
    generator = torch.Generator().manual_seed(0)
    prob = truth.log_prior[:, 0].exp().cpu()  # as the generator
    draws = prob.multinomial(4000, True, generator=generator).view(2, -1)
    sharp = 10.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outcome = simulate(sharp * reward[draws[0]], sharp * reward[draws[1]])
    pairs = ResponsePairs(prompts[[0] * 2000], truth.support[draws, 0], outcome)
    guide = Tabular(prior, prompts)
    start = truth.kl_guide_posterior(guide).item()
    program = PreferenceProgram(guide, prior, sharp * BETA)
    options = {"learning_rate": 0.05, "pairs_per_step": 200, "progress": False}
    metrics = fit_preferences(program, pairs, num_steps=100, **options)
    assert truth.kl_guide_posterior(guide).item() < 0.1 * start
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # of 200 of 2000 pairs
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [record["step"] for record in metrics] == list(range(1, 101))
    assert not dict(pyro.get_param_store().named_parameters())


def test_svi_of_pyro_descends_the_loss_and_lora_trains(prior):
    preferences = [Preference("w1", " w2 w3", " w3"), Preference("w2", " w1", " w3 w3", tie=True)]
    pairs = ResponsePairs.of(preferences, prior)
    assert pairs.response.tolist() == [[[2, 3], [1, 0]], [[3, 0], [3, 3]]]
    assert pairs.outcome.tolist() == [FIRST, TIE]
    guide = LoRA(prior, rank=2)
    program = PreferenceProgram(guide, prior, BETA)
    with pyro.get_param_store().scope():
        elbo = pyro.infer.Trace_ELBO()
        svi = pyro.infer.SVI(program, lambda pairs: None, pyro.optim.Adam({"lr": 0.01}), elbo)
        losses = [svi.step(pairs) for _ in range(20)]
    assert losses[0] == pytest.approx(2 * math.log(2), abs=1e-5)
    assert losses[-1] < losses[0] - 1e-3


def test_preferences_that_do_not_fit_are_refused_by_number(prior):
    fits = Preference("w1", " w2", " w3")
    with pytest.raises(PreferenceError, match="preference 1: the response ' w1 w2 w3' has 3 tok"):
        ResponsePairs.of([fits, Preference("w1", " w2", " w1 w2 w3")], prior)
    with pytest.raises(PreferenceError, match="preference 0: the token ids of the response stand"):
        ResponsePairs.of([Preference("w1", "w2", " w3")], prior)
    with pytest.raises(PreferenceError, match="there are no preferences"):
        ResponsePairs.of([], prior)
    pairs = ResponsePairs.of([fits, fits], prior)
    numbers, one, lora = torch.ones(2), torch.ones(1, 2), LoRA(prior, rank=2)
    replace(pairs, weight=0 * numbers, offset=-numbers)  # both are possible
    for name, value in {"weight": -numbers, "offset": math.nan * numbers, "log_prior": one}.items():
        with pytest.raises(ValueError, match=f"^{name} (is|has shape) .*, expected"):
            replace(pairs, **{name: value})
    for function, message in {
        lambda _: 3: "is a int, expected a Tensor",
        lambda value: value.sum(): r"has shape \(\) .* of shape \(2",
        lambda value: 1j * value: "has shape .* type torch.complex.*, expected real numbers",
        lambda value: value.detach(): "has no gradient",
        lambda value: math.inf * value: "is -?(inf|nan) at index .*, expected a finite number",
    }.items():
        link = {"link": function}
        likelihood = {"likelihood": lambda rewards, *_, f=function: f(rewards.sum(0))}
        for name, options in {
            "reward of `link`": link,
            "likelihood of outcomes": likelihood,
        }.items():
            program = PreferenceProgram(lora, prior, BETA, **options)
            with pytest.raises((TypeError, ValueError), match=f"^the {name} {message}"):
                program.log_likelihood(pairs)
    for point in (None, math.nan, one):
        program = PreferenceProgram(
            lora, prior, BETA, likelihood=kto(reference=lambda _, z=point: z)
        )
        with pytest.raises(
            ValueError, match=r"^what the reference returned is .*, expected a finite"
        ):
            program.log_likelihood(pairs)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"beta": 0}, "beta is 0"),
        ({"likelihood": "ppo"}, "likelihood is 'ppo', expected"),
        ({"link": "kl"}, "link is 'kl', expected"),
    ],
)
def test_choices_that_do_not_exist_are_refused(choices, message, prior):
    with pytest.raises(ValueError, match=message):
        PreferenceProgram(LoRA(prior, rank=2), prior, **{"beta": 0.1, **choices})
    for share in (0.0, 0.5):
        with pytest.raises(ValueError, match=f"smoothing is {share:g}"):
            exo(share)
    with pytest.raises(ValueError, match=r"flip is 0\.5"):
        robust(0.5)
    with pytest.raises(TypeError, match=r"link is .*, expected a function of 1 argument"):
        PreferenceProgram(LoRA(prior, rank=2), prior, 0.1, link=lambda: 3)
    with pytest.raises(ValueError, match="alpha is 0, expected another number"):
        alpha_divergence(0.0)
    with pytest.raises(ValueError, match="gamma is -1"):
        margin(-1.0)
    with pytest.raises(ValueError, match="token_kl is the KL from the prior, got None"):
        PreferenceProgram(LoRA(prior, rank=2), None, 0.1, token_kl=True)
    for ratio in (0.0, 0.1):  # a guide at its prior has 0
        with pytest.raises(ValueError, match="`orpo` got a reward of 0 or more, expected log-prob"):
            LIKELIHOODS["orpo"](torch.tensor([[ratio], [-1.0]]), torch.tensor([FIRST]), 0.1)
    with pytest.raises(ValueError, match="weight is -1"):
        positive_dpo(-1.0)
    with pytest.raises(TypeError, match="per_token is 1"):
        PreferenceProgram(LoRA(prior, rank=2), prior, 0.1, per_token=1)
    with pytest.raises(ValueError, match=r"smoothing is 0\.5"):
        smoothed(0.5)


def test_the_posterior_is_the_target_of_lists(prior, prompts, truth, reward):
    """Lists of three draws of p0: rankings of the judge, the best alone, scores, pairs of lists."""
    index = torch.cartesian_prod(*[torch.arange(0, len(reward), 2)] * 3)  # [C, 3], best first
    own, response, many = reward[index], truth.support[index.T, 0], prompts[[0] * len(index)]
    weight = truth.log_prior[:, 0][index].sum(-1).softmax(0)
    ranked, best = (torch.tensor(each).double().expand_as(own) for each in ([2, 1, 0], [1, 0, 0]))
    judged = weight * log_ranking(own, ranked).exp()
    cases = [
        ("plackett-luce", ranked, judged),
        ("plackett-luce", best, weight * log_ranking(own, best).exp()),
        ("info-nca", own, weight),
        (info_nca(3.0), 3 * own, weight),
    ]
    choices = {"prior": prior, "prompts": prompts, "truth": truth}
    for likelihood, score, each in cases:
        lists = ResponseLists(many, response, score.T, each)
        choices |= {"pairs": lists, "likelihood": likelihood}
        assert gradient(truth.log_posterior[:, 0], **choices) < 1e-8
        assert gradient(truth.log_prior[:, 0], **choices) > 1e-3
    places = {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0}, {(0, 1): 0.5, (0, 2): 0.5}, {(0, 2): 1.0}
    slopes = []
    for share in places:  # all pairs, the best beside any other, the best beside the worst
        pairs = ResponsePairs(
            prompts[[0] * (len(share) * len(index))],
            torch.cat([response[list(each)] for each in share], 1),
            torch.full((len(share) * len(index),), FIRST),
            torch.cat([size * judged for size in share.values()]),
        )
        choices |= {"pairs": pairs, "likelihood": "dpo"}
        slopes.append(gradient(truth.log_posterior[:, 0], **choices))
    assert max(slopes[:2]) < 1e-8
    assert slopes[2] > 1e-4


def test_lists_of_two_are_pairs_and_shorter_lists_train(prior):
    preferences = [Preference("w1", " w2 w3", " w3"), Preference("w2", " w1", " w3 w3")]
    pairs = ResponsePairs.of(preferences, prior)
    guide = LoRA(prior, rank=2)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1)
    dpo, luce = (
        PreferenceProgram(guide, prior, BETA, likelihood=n) for n in ("dpo", "plackett-luce")
    )
    expected = dpo.log_likelihood(pairs)
    lists = ResponseLists.of([Ranking.of(each) for each in preferences], prior)
    for each in (pairs, lists):
        assert_close(luce.log_likelihood(each), expected, rtol=1e-14, atol=0)
    ties = replace(pairs, outcome=torch.full((2,), TIE))  # orders that were not recorded
    assert luce.log_likelihood(ties).tolist() == [0, 0] > dpo.log_likelihood(ties).tolist()
    more = Ranking("w2", (" w1", " w3 w3", " w3"), (1.0, 0.5, 2.0))
    lists = ResponseLists.of([Ranking.of(preferences[0]), more], prior)
    assert lists.response[2].tolist() == [[2, 3], [3, 0]]
    assert lists.outcome.tolist() == [[1, 1], [0, 0.5], [-math.inf, 2]]
    assert_close(luce.log_likelihood(lists)[0], expected[0], rtol=1e-14, atol=0)
    options = {"num_steps": 20, "learning_rate": 0.01, "pairs_per_step": 1, "progress": False}
    for name in sorted(OF_LIST):
        program = PreferenceProgram(LoRA(prior, rank=2), prior, BETA, likelihood=name)
        before = program.log_likelihood(lists).sum()
        fit_preferences(program, lists, **options)
        assert program.log_likelihood(lists).sum() > before + 1e-3
    for data, name, message in (
        (lists, "dpo", "does not read lists of responses: use `plackett-luce`"),
        (pairs, "info-nca", "reads scores, which pairs have not: use `dpo`"),
    ):
        with pytest.raises(ValueError, match=message):
            PreferenceProgram(guide, prior, BETA, likelihood=name).log_likelihood(data)
    for changed, message in {
        "outcome": (lists.outcome[:2], r"outcome has shape \(2, 2\), expected \(3, 2\)"),
        "offset": (torch.ones(2), "offset is of pairs, got ResponseLists"),
    }.items():
        with pytest.raises(ValueError, match=message[1]):
            replace(lists, **{changed: message[0]})
    with pytest.raises(PreferenceError, match="there are no rankings"):
        ResponseLists.of([], prior)
