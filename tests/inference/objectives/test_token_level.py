"""Reward-to-go and analytic KL against one Pyro site per token, and their variance."""

import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceGraph_ELBO
from torch import nn

from guides import FineTuned
from inference import (
    OBJECTIVES,
    Enumeration,
    LeaveOneOut_ELBO,
    RewardToGo_ELBO,
    joint_at,
    log_guide_at,
)
from inference.objectives import AnalyticKL_ELBO
from inference.programs import parameter_scope
from model import AlignmentModel, TextReward
from tests.inference.objectives.table import (
    BETA,
    ONE,
    TWO,
    Table,
    Target,
    autograd,
    gradient,
    gradient_variance,
    mean_gradient,
    posterior_guide,
)


class TokenSites:
    """The same program with one site per token for TraceGraph_ELBO, on one prompt."""

    def __init__(self, table: Table, reward=None) -> None:
        self.table, self.reward = table, reward

    def __call__(self, prompts):
        if self.reward is None:
            pyro.module("guide", self.table)
        first = pyro.sample("token_1", dist.Categorical(logits=self.table.first[1]))
        alive = first != 0
        logits = torch.where(
            alive, self.table.then[1, first], torch.tensor([0.0, -torch.inf, -torch.inf]).double()
        )
        # after the end, padding with probability 1
        second = pyro.sample("token_2", dist.Categorical(logits=logits))
        if self.reward is not None:
            response = torch.stack([first, second])[None]
            pyro.factor("reward", self.reward(prompts, response)[0] / BETA)


@pytest.mark.parametrize("response", [(0, 0), *itertools.product((1, 2), range(3))])
def test_reward_to_go_is_tracegraph_with_a_site_per_token(response):
    """Sample by sample, without baselines on either side."""
    model, guide = Target(), Table(1)
    drawn = torch.tensor(response).view(1, 1, 2)
    loss, ours = gradient(RewardToGo_ELBO(1, baseline="none"), model, guide, ONE, drawn)
    guide.zero_grad()
    trace = poutine.Trace()  # of given values, though they are still drawn and not observed
    for name, value in (("token_1", drawn[0, 0, 0]), ("token_2", drawn[0, 0, 1])):
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    program = poutine.replay(TokenSites(guide), trace=trace)
    with pyro.get_param_store().scope():
        theirs = TraceGraph_ELBO().loss_and_grads(
            TokenSites(model.prior, model.reward), program, ONE
        )
    assert loss == pytest.approx(theirs, rel=1e-12)
    expected = torch.cat([p.grad.flatten() for p in guide.parameters()])
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_values_by_rollouts_give_each_token_its_advantage():
    """With many draws of each prefix the gradient of one response is that of exact values."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    log_guide, prob = truth.log_guide(guide)[:, 0], truth.log_guide(guide)[:, 0].exp()
    log_weight = truth.log_joint[:, 0] - log_guide
    first = truth.support[:, 0, 0]
    of_first = torch.stack(
        [(prob * log_weight)[first == v].sum() / prob[first == v].sum() for v in range(3)]
    )
    mean = torch.zeros(())
    for row, response in enumerate(truth.support):
        objective = RewardToGo_ELBO(1, baseline="rollouts", num_rollouts=20_000)
        _, actual = gradient(objective, model, guide, ONE, response[None])
        gains = torch.stack([of_first[first[row]] - prob @ log_weight, log_weight[row]])
        gains[1] = gains[1] - of_first[first[row]]
        tokens = guide.distribution(ONE).log_prob_per_token(response)[0]
        expected = autograd(-(gains.detach() * tokens).sum(), guide)
        assert torch.allclose(actual, expected, atol=0.03)
        mean = mean + prob[row].detach() * actual
    log_q = log_guide_at(guide, ONE, truth.support)[:, 0]
    elbo = (log_q.exp() * (truth.log_joint[:, 0] - log_q)).sum()
    assert torch.allclose(mean, autograd(-elbo, guide), atol=0.02)


@pytest.mark.parametrize("num_rollouts", [1, 3])
def test_values_by_rollouts_are_without_noise_at_the_posterior(num_rollouts):
    model = Target()
    guide = posterior_guide(model, TWO)
    response = guide.distribution(TWO).sample((4,))
    objective = RewardToGo_ELBO(4, baseline="rollouts", num_rollouts=num_rollouts)
    assert gradient(objective, model, guide, TWO, response)[1].abs().max() < 1e-9


def test_values_by_rollouts_end_with_the_longest_response(prior, prompts):
    """No response is as long as it may be: later places have no advantage."""
    model = AlignmentModel(prior, lambda _, response: response[..., 0].double(), beta=2.0)
    guide, response = FineTuned(prior), torch.zeros(2, 2, 3, dtype=torch.long)
    response[0, :, 0] = torch.tensor([7, 8])  # a word and the end; the end alone
    objective = RewardToGo_ELBO(2, baseline="rollouts", num_rollouts=2)
    _, actual = gradient(objective, model, guide, prompts, response)
    assert bool(actual.isfinite().all())
    assert actual.abs().max() > 0


def without_reward(seed: int) -> tuple[Target, Table]:
    """A random prior without a reward, and a random guide far from the prior."""
    return Target(lambda _, response: response[..., 0] * 0.0, seed=seed), Table(100 + seed)


def test_token_level_wins_far_from_the_posterior():
    """Exact sums of variances over five worlds: most of each sum is noise of other tokens."""
    total = dict.fromkeys([LeaveOneOut_ELBO, RewardToGo_ELBO, AnalyticKL_ELBO], 0.0)
    for world in map(without_reward, range(5)):
        for make in total:
            total[make] += gradient_variance(partial(make, 2), *world, ONE, 2)
    whole, to_go, analytic = total.values()
    assert to_go < whole
    assert analytic < 0.5 * whole


def test_analytic_kl_varies_less_than_the_sampled_kl_and_is_never_negative():
    """The mean is exact in each world; the variance is the smaller one in the sum over worlds."""
    variances = torch.zeros(2, dtype=torch.float64)
    for model, guide in map(without_reward, range(5)):
        truth = Enumeration(model, ONE)
        prob = truth.log_guide(guide).exp()[:, 0]
        sampled = (truth.log_guide(guide) - truth.log_prior)[:, 0]
        objective = AnalyticKL_ELBO(2)
        losses = [
            gradient(objective, model, guide, ONE, x.expand(2, -1, -1))[0] for x in truth.support
        ]
        both = torch.stack([torch.tensor(losses, dtype=torch.float64), sampled])
        mean = both @ prob
        assert mean[0].item() == pytest.approx(mean[1].item(), rel=1e-10)
        assert (both[0] >= 0).all()
        assert (sampled < 0).any()
        variances += (both - mean[:, None]).square() @ prob
    assert variances[0] < 0.3 * variances[1]


def test_value_baseline_is_learned():
    """The error falls to the variance of the return given the prefix; the guide is not affected."""
    model, guide = Target(), Table(1).requires_grad_(False)
    truth = Enumeration(model, ONE)
    objective = RewardToGo_ELBO(64, baseline="value")
    optimizer = torch.optim.Adam(Table(0).parameters(), lr=0.05)
    with pyro.get_param_store().scope():
        for step in range(300):
            objective.loss_and_grads(model, guide, ONE)
            if step == 0:
                optimizer = torch.optim.Adam(objective.value.parameters(), lr=0.05)
            optimizer.step()
            optimizer.zero_grad()
    start = guide.start(ONE)[1].hidden[:, -1]
    assert objective.value(start).item() == pytest.approx(truth.elbo(guide).item(), abs=0.15)


def test_the_regression_of_the_value_is_of_mean_squares_and_leaves_the_guide_alone():
    hidden = torch.randn(4, 1, 3, 8, requires_grad=True)
    to_go, is_token = torch.randn(4, 1, 3), torch.ones(4, 1, 3, dtype=torch.bool)
    objective = RewardToGo_ELBO(4, baseline="value")
    error, loss = objective._advantage(to_go, hidden, is_token)
    assert torch.equal(error, (to_go - objective.value(hidden)).detach())
    assert loss.item() == pytest.approx(0.5 * error.square().sum().item() / 4)
    assert torch.autograd.grad(loss, hidden, allow_unused=True) == (None,)


@pytest.mark.parametrize("num", [2, 3])
def test_the_mean_gradient_with_weighed_baselines_is_exact(num):
    model, guide = Target(), Table(1)
    make = partial(RewardToGo_ELBO, num, baseline="energy")
    truth = Enumeration(model, ONE)
    log_q = log_guide_at(guide, ONE, truth.support)
    exact = autograd(-(log_q.exp() * (truth.log_joint - log_q)).sum(), guide)
    mean = mean_gradient(make, model, guide, ONE, num)
    assert torch.allclose(mean, exact, rtol=1e-9, atol=1e-10)


def test_a_place_has_the_mean_of_the_others_by_their_squared_scores_so_far():
    """Scores by autograd, each token of a table by its own logits, and baselines in plain loops."""
    model, guide = Target(), Table(1)
    response = torch.tensor([[1, 2], [2, 0], [0, 0], [1, 1]])[:, None]
    log_q = guide.distribution(ONE).log_prob_per_token(response)[:, 0]
    log_prior = model.prior.distribution(ONE).log_prob_per_token(response)[:, 0]
    reward = model.reward(ONE, response)[:, 0] / BETA
    advantage = torch.zeros(4, 2).double()
    lengths, energy = [2, 2, 1, 2], torch.zeros(4, 2).double()
    for k, length in enumerate(lengths):
        for t in range(length):
            score = torch.autograd.grad(
                log_q[k, t], guide.parameters(), retain_graph=True, materialize_grads=True
            )
            energy[k, t:length] += sum(part.square().sum() for part in score)
    to_go = reward[:, None] + (log_prior - log_q).detach().flip(-1).cumsum(-1).flip(-1)
    for k, length in enumerate(lengths):
        for t in range(length):
            others = [j for j in range(4) if j != k and t < lengths[j]]
            total = sum(energy[j, t] for j in others)
            advantage[k, t] = to_go[k, t] - sum(energy[j, t] * to_go[j, t] for j in others) / total
    expected = autograd(-(advantage * log_q).sum() / 4, guide)
    objective = RewardToGo_ELBO(4, baseline="energy")
    _, actual = gradient(objective, model, guide, ONE, response)
    assert expected.norm() > 0.1
    assert torch.allclose(actual, expected, atol=1e-9)
    alone = RewardToGo_ELBO(2, baseline="energy"), RewardToGo_ELBO(2)  # at place 2 no other
    short = torch.tensor([[1, 2], [0, 0]])[:, None]
    of_energy, plain = (gradient(each, model, guide, ONE, short)[1] for each in alone)
    assert torch.allclose(of_energy, plain, atol=1e-9)


class Values(nn.Module):
    """V of the prefix before each token, by its last word, `[T, 3]`."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, hidden):
        return (hidden * self.table).sum(-1)


@pytest.mark.parametrize("option", [("gae_lambda", 0.0), ("gae_lambda", 0.6), ("gae_alpha", 1.0)])
def test_the_mean_gradient_of_gae_is_exact_where_the_values_are(option):
    """And not with other values. The first token decides the length here."""
    model, guide = Target(), Table(1)
    truth = Enumeration(model, ONE)
    response, log_guide = truth.support, truth.log_guide(guide)
    tokens = [
        table.distribution(ONE).log_prob_per_token(response)[:, 0].detach()
        for table in (model.prior, guide)
    ]
    to_go = truth.log_likelihood + (tokens[0] - tokens[1]).flip(-1).cumsum(-1).flip(-1)  # [S, T]
    prob, first = log_guide[:, 0].exp().detach(), response[:, 0, 0]
    last = [(prob * (first == word)) / prob[first == word].sum() @ to_go[:, 1] for word in range(3)]
    exact = torch.stack([(prob @ to_go[:, 0]).expand(3), torch.stack(last)])
    exact_loss = -(log_guide_at(guide, ONE, response).exp() * (truth.log_joint - log_guide)).sum()
    expected, errors = autograd(exact_loss, guide), []
    for table in (exact, 0 * exact):

        def make(table=table):
            objective = RewardToGo_ELBO(1, baseline="value", **dict([option]))
            objective.value = Values(table)
            return objective

        errors.append((mean_gradient(make, model, guide, ONE, 1) - expected).norm())
    assert errors[0] < 1e-9
    assert errors[1] > 0.1


@pytest.mark.parametrize(
    ("option", "short", "long"),
    [
        ({"gae_lambda": 0.5}, [-1 + 0.5 * 2, 2, 0], [-1 + 0.5 * -2 + 0.25 * 4, -2 + 0.5 * 4, 4]),
        ({"gae_alpha": 2 / 3}, [-1 + 0.25 * 2, 2, 0], [-1 + 0.5 * -2 + 0.25 * 4, -2 + 0.5 * 4, 4]),
        ({"gae_alpha": 0.4}, [-1, 2, 0], [-1 + -2 / 6 + 4 / 36, -2 + 4 / 6, 4]),
    ],
)
def test_gae_weighs_later_changes_by_powers_of_lambda(option, short, long):
    """Responses of two and of three tokens, by which alpha sets lambda, at least 0."""
    objective = RewardToGo_ELBO(2, baseline="value", **option)  # the first values are 0
    to_go, hidden = torch.tensor([[[1.0, 2.0, 4.0]]]).repeat(2, 1, 1), torch.zeros(2, 1, 3, 2)
    is_token = torch.tensor([[[True, True, False]], [[True, True, True]]])
    advantage, _ = objective._advantage(to_go, hidden, is_token)
    assert advantage[0, 0].tolist() == pytest.approx(short)
    assert advantage[1, 0].tolist() == pytest.approx(long)


def test_trace_elbo_at_the_posterior_has_the_variance_of_log_z_squared_fisher():
    """E ||g||^2 = (log Z)^2 tr F; this is why a baseline is needed."""
    model = Target()
    guide, truth = posterior_guide(model, ONE), Enumeration(model, ONE)
    prob, total, fisher = truth.log_posterior[:, 0].exp(), 0.0, 0.0
    for p, x in zip(prob, truth.support, strict=True):
        total += (
            p
            * gradient(OBJECTIVES["trace"](num_particles=1), model, guide, ONE, x[None])[1]
            .square()
            .sum()
        )
        with parameter_scope(guide):
            log_guide = log_guide_at(guide, ONE, x[None]).sum()
            score = torch.autograd.grad(
                log_guide, list(guide.parameters()), materialize_grads=True, allow_unused=True
            )
        fisher += p * sum(part.square().sum() for part in score)
    assert truth.log_z.abs().item() > 0.1
    assert float(total) == pytest.approx((truth.log_z.square() * fisher).item(), rel=1e-9)


def test_tracegraph_sees_a_reward_of_texts(small_prior, prompts, guide):
    """Texts would lose the provenance of the response, and the network the gradient."""
    model = AlignmentModel(
        small_prior,
        TextReward(lambda texts: [len(text) / 9 for text in texts], small_prior),
        beta=0.5,
    )

    response = guide.distribution(prompts).sample((4,))
    makes = OBJECTIVES["trace"], OBJECTIVES["trace-graph"]
    plain, graph = (
        gradient(make(num_particles=4), model, guide, prompts, response)[1] for make in makes
    )
    assert plain.norm() > 0.1
    assert torch.allclose(plain, graph, rtol=1e-9, atol=1e-12)
    assert joint_at(model, prompts, response).log_likelihood.std() > 0


@pytest.mark.parametrize("log_guide", [-2e3, -2e4, -torch.inf])
def test_a_token_of_prior_and_guide_probability_0_has_no_kl(log_guide):
    """The limit of a token that both of them draw once in e^700 responses."""
    losses, response = [], torch.tensor([[[1, 1]], [[0, 0]]])
    for pair in ((-700.0, -700.0), (-torch.inf, log_guide)):
        model, guide = Target(), Table(1)
        with torch.no_grad():
            model.prior.first[:, 2], guide.first[:, 2] = pair
        loss, grad = gradient(AnalyticKL_ELBO(2), model, guide, ONE, response)
        losses.append(torch.tensor([loss, *grad]))
    torch.testing.assert_close(*losses)
