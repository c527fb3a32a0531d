"""Self-play against sums over all draws, with judges that no reward explains."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from guides import FineTuned
from inference import Enumeration, fit, log_guide_at
from inference.direct_preferences import LIKELIHOODS
from inference.direct_preferences.of_batch import OfBatch
from inference.objectives.online_dpo import OnlineDPO
from inference.objectives.self_play import SelfPlay
from inference.targets.fixed_points import Problem
from inference.targets.fixed_points.nash import nash
from model import AlignmentModel, grammar_prior
from model.likelihood import LikelihoodError
from model.preferences import FIRST
from tests.inference.objectives.table import (
    ONE,
    TWO,
    Table,
    Target,
    autograd,
    gradient,
    mean_gradient,
    posterior_guide,
)

WEIGHT = 0.6


def circular(prompts, first, second):
    """First words go in a circle: 0 beats 1 beats 2 beats 0; the prompt sharpens the judge."""
    ahead = (second[..., 0] - first[..., 0]) % 3
    sharp = 0.2 * prompts.ids[:, -1].double()
    return 0.5 + sharp * ((ahead == 1).double() - (ahead == 2).double())


def preference(judge, prompts, support):
    """P(x beats y) of all responses, `[S, S, N]`."""
    num = len(support)
    first, second = torch.cartesian_prod(torch.arange(num), torch.arange(num)).T
    return judge(prompts, support[first], support[second]).view(num, num, -1)


@pytest.mark.parametrize("num", [2, 3])
def test_mean_gradient_with_a_judge_is_exact(num):
    """The likelihood of the model counts beside the judge."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    log_q = log_guide_at(guide, ONE, truth.support)
    wins = torch.einsum(
        "ijn,jn->in", preference(circular, ONE, truth.support), log_q.detach().exp()
    )
    exact = -(log_q.exp() * (wins / WEIGHT + truth.log_joint - log_q)).sum()
    mean = mean_gradient(
        lambda: SelfPlay(num, judge=circular, kl_weight=WEIGHT), model, guide, ONE, num
    )
    assert_close(mean, autograd(exact, guide), rtol=1e-9, atol=1e-10)
    objective, pair = SelfPlay(2, judge=circular, kl_weight=WEIGHT), truth.support[[0, 3]]
    loss, _ = gradient(objective, model, guide, ONE, pair)  # each plays against the other
    wins = preference(circular, ONE, pair)[[0, 1], [1, 0]]
    log_weight = (truth.log_joint - log_q)[[0, 3]] + wins / WEIGHT
    assert loss == pytest.approx(-log_weight.mean().item())


def test_a_circular_judge_leads_to_the_equilibrium():
    """Without a reward, in short steps, which do not turn around the equilibrium."""
    prior = grammar_prior(max_new_tokens=2)
    prompts = prior.encode(["the film was", "the plot was"])

    def judge(prompts, first, second):
        return circular(prompts, first % 3, second % 3).clamp(0.1, 0.9)

    model, guide = AlignmentModel(prior, {}, beta=1.0), FineTuned(prior)
    truth = Enumeration(model, prompts)
    wins = preference(judge, prompts, truth.support)
    target = nash(Problem(truth.log_prior, torch.zeros_like(truth.log_prior), 0.2), wins)

    def left(log_q):
        return (log_q.exp() * (log_q - target)).sum(0)

    assert left(truth.log_prior).max() > 0.1
    objective = SelfPlay(64, judge=judge, kl_weight=0.2)
    options = {"num_steps": 150, "step_kl": 0.002, "progress": False}
    fit(model, guide, prompts, objective=objective, **options)
    assert left(truth.log_guide(guide)).max() < 0.03


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (lambda *_: torch.ones(3), r"float32 \(3,\), expected a real tensor of shape \(6, 2\)"),
        (lambda _, first, __: first[..., 0].tolist(), "returned a list.* in `TextJudge`"),
        (lambda _, first, __: first[..., 0] * 0.0 + 1.5, "returned 1.5 at .* a probability"),
        (lambda _, first, __: first[..., 0] * torch.nan, "returned nan at"),
        (lambda _, first, __: first[..., 0] - torch.inf, "returned -inf at"),
    ],
)
def test_a_judge_of_no_probabilities_is_refused(judge, words):
    guide = Table(1)
    response = guide.distribution(TWO).sample((4,))
    with pytest.raises(LikelihoodError, match=words):
        gradient(SelfPlay(4, judge=judge), Target(), guide, TWO, response)


def test_online_ipo_has_four_times_the_gradient_of_self_play():
    """On every sample, with a judge of its own and with that of Bradley and Terry."""
    guide = Table(1)
    response = guide.distribution(TWO).sample((5,))
    for judge in (None, circular):
        online = OnlineDPO(5, likelihood=LIKELIHOODS["ipo"], judge=judge)
        assert not online.ascends_elbo
        assert not OnlineDPO(5, judge=circular).ascends_elbo
        _, actual = gradient(online, Target(), guide, TWO, response)
        play = SelfPlay(5, judge=judge, kl_weight=1.0)
        _, expected = gradient(play, Target(), guide, TWO, response)
        assert expected.norm() > 0.1
        assert_close(actual, 4 * expected)


def test_labels_are_drawn_by_their_probability_or_favour_the_better_response():
    """The likelihood of a label is the number of first responses that win."""
    prob = torch.tensor([0.1, 0.5, 0.9]).double().repeat_interleave(20_000)

    def wins(labels):
        first = OnlineDPO(2, labels=labels, likelihood=lambda pairs, outcome, _: outcome == FIRST)
        value = first._log_likelihood(torch.zeros(2, len(prob)), prob).view(3, -1)
        return value.double().mean(1)

    tolerance = {"rtol": 0, "atol": 0.02}
    assert_close(wins("expected"), torch.tensor([0.1, 0.5, 0.9]).double())
    assert_close(wins("drawn"), torch.tensor([0.1, 0.5, 0.9]).double(), **tolerance)
    assert_close(wins("best"), torch.tensor([0.0, 0.5, 1.0]).double(), **tolerance)


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_certain_labels_drive_the_guide_from_the_posterior_to_the_best_response(beta):
    """All labels of the same certainty as the loss leave the guide there."""
    model, choices = Target(), {"num_particles": 2, "beta": beta}
    guide, truth = posterior_guide(model, ONE), Enumeration(model, ONE)
    log_q = log_guide_at(guide, ONE, truth.support)[:, 0]
    to_best = autograd(log_q[truth.log_likelihood[:, 0].argmax()], guide)
    for labels in ("expected", "best"):
        make = partial(OnlineDPO, labels=labels, **choices)
        assert make().ascends_elbo == (labels == "expected")
        mean = mean_gradient(make, model, guide, ONE, 2)
        if labels == "expected":
            assert mean.norm() < 1e-9
        else:
            assert mean @ to_best < -0.01


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_all_likelihoods_of_pairs_take_draws_of_the_guide(name):
    guide, likelihood = Table(1), LIKELIHOODS[name]
    response, choices = guide.distribution(TWO).sample((4,)), {"likelihood": likelihood}
    refusals = {
        "orpo": "`orpo` got a reward of 0 or more",
        "info-nca": "the likelihood reads scores, which pairs have not: use `dpo`",
    }
    if name in refusals:
        with pytest.raises(ValueError, match=refusals[name]):
            gradient(OnlineDPO(4, **choices), Target(), guide, TWO, response)
        return
    if isinstance(likelihood, OfBatch):
        with pytest.raises(ValueError, match="labels='expected', expected 'drawn' or 'best'"):
            gradient(OnlineDPO(4, **choices), Target(), guide, TWO, response)
        choices["labels"] = "drawn"
    loss, slope = gradient(OnlineDPO(4, **choices), Target(), guide, TWO, response)
    assert torch.tensor(loss).isfinite()
    assert slope.norm() > 0.01


def test_a_judge_is_not_trained():
    guide, weight = Table(1), torch.tensor(0.5, requires_grad=True)
    response = guide.distribution(TWO).sample((4,))

    def judge(_, first, __):
        return weight * (first[..., 0] == 1)

    for make in (SelfPlay, OnlineDPO):
        gradient(make(4, judge=judge), Target(), guide, TWO, response)
    assert weight.grad is None


def test_impossible_responses_stay_impossible_at_the_equilibrium():
    log_prior = torch.tensor([[0.0], [-1.0], [-2.0], [-torch.inf]]).double().log_softmax(0)
    reward = torch.tensor([[0.0], [1.0], [3.0], [2.0]])
    log_q = nash(Problem(log_prior, reward, WEIGHT))
    assert_close(log_q[:3], nash(Problem(log_prior[:3], reward[:3], WEIGHT)))
    assert log_q[3].isneginf()


def test_preferences_of_no_judge_have_no_equilibrium():
    problem = Problem(torch.zeros(3, 1).log_softmax(0), torch.zeros(3, 1), WEIGHT)
    with pytest.raises(ValueError, match=r"expected \[S, S, N\], here \(3, 3, 1\)"):
        nash(problem, torch.full((3, 3), 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        nash(problem, torch.full((3, 3, 1), 0.6))
