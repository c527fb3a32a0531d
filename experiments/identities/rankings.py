"""Rankings of Plackett and Luce: the target of DPO on lists, and pairs of lists as if alone."""

from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import DISTINCT, exact, over_cases
from experiments.identities.preferences import judged, least
from experiments.identities.world import World, cases, gradient_at
from experiments.shared.claims import Finding, within
from inference import random_state
from inference.direct_preferences import LIKELIHOODS
from model.preferences import log_ranking

PLACES = {"all pairs": ((0, 1), (0, 2), (1, 2)), "best and another": ((0, 1), (0, 2))}
"""Pairs of places in a ranking of three, each pair of a list with the same weight."""


def plackett_luce(world: World) -> list[Finding]:
    """DPO on rankings of three draws of p0, and on pairs of them (arXiv 2305.18290, appendix A.3).

    P(a first of a list) : P(b first) is exp(r(a)) : exp(r(b)), and so is the ratio of the wins of a
    and b over each other, so that pairs of the best response and a random other one, and all pairs,
    have the target p*. The best beside the worst has not: a more certain preference than that.
    """
    nats, beta = 4 * world.reward, judged(world)[1]
    index = torch.cartesian_prod(*[torch.arange(len(nats))] * 3)  # [C, 3], best first
    score = torch.tensor([2.0, 1.0, 0.0]).double().expand(index.shape)
    draw = world.log_prior[index].sum(-1)
    weight = (draw + log_ranking(nats[index], score)).exp()

    def loss(log_guide: Tensor) -> Tensor:
        return -weight @ log_ranking(beta * world.log_ratio(log_guide)[index], score)

    ends = world.log_posterior, world.log_prior
    slopes = [gradient_at(log_q, loss).abs().max().item() for log_q in ends]
    findings = [
        exact("all lists in all orders, sum of probabilities less 1", 6 * weight.sum() - 1),
        exact("rankings, gradient of the loss at q = p*", slopes[0]),
        within("rankings, gradient of the loss at q = p0", slopes[1], above=1e-3),
    ]
    for name, places in (PLACES | {"best and worst": ((0, 2),)}).items():
        wins = torch.zeros(len(nats), len(nats), dtype=torch.float64)
        for first, second in places:
            wins.index_put_((index[:, first], index[:, second]), weight, accumulate=True)
        end = least(world, LIKELIHOODS["dpo"], wins / len(places), beta, world.log_ratio)
        subject = f"{name}, KL(optimum || p*), nats"
        if name in PLACES:
            findings.append(exact(subject, world.gap(end), limit=1e-6))
        else:
            nearest, gap = world.nearest_posterior(end, torch.linspace(0.1, 0.3, 201).double())
            findings += [
                within(subject, world.gap(end), above=DISTINCT),
                within(
                    f"{name}, beta of the nearest posterior, at {gap:.1g} nats (beta is "
                    f"{world.model.beta:g})",
                    nearest,
                    below=world.model.beta,
                ),
            ]
    return findings


def pairs_of_a_ranking(_: World) -> list[Finding]:
    """Variance of rewards from all pairs of rankings as if independent (arXiv 2203.02155).

    For the score s of the pairs of a list of K and the sensitivity H = -E[ds/dr], the estimate has
    the variance H^-1 Var[s] H^-1 per list, and a posterior that takes the pairs as independent
    claims H^-1. At equal rewards Var[s] is (K + 1)/3 of H: Var[wins of a response] is (K^2 - 1)/12,
    and each pair has 1/4. The likelihood of rankings has (K - 1)/(K - 1 - 1/2 - ... - 1/K) in each
    direction. A loss averaged over the pairs, as in the paper, claims K (K - 1)/2 times as much.
    """
    excess, errors = [], []
    for size in (2, 3, 4, 6):
        claimed, actual, efficient = variances(torch.zeros(size).double())
        excess.append(actual / claimed - (size + 1) / 3)
        harmonic = sum(1 / k for k in range(1, size + 1))
        errors.append(efficient - (size - 1) ** 2 / (size - harmonic))
    with random_state.isolated(0):
        lists = [case.reward[case.draws(case.log_prior, 4)] for case in cases()]
    drawn = [variances(4 * reward) for reward in lists]
    narrow = [actual / claimed for claimed, actual, _ in drawn]
    loss = [actual / efficient for _, actual, efficient in drawn]
    equal, subject = "equal rewards, K 2 to 6", "lists of 4 draws, variance of all pairs over"
    return [
        exact(f"{equal}, variance of all pairs over claimed less (K + 1)/3", *excess),
        exact(f"{equal}, variance of rankings less its formula", *errors),
        over_cases(f"{subject} claimed", narrow, above=1.0),
        over_cases(f"{subject} that of rankings", loss, above=1.0),
    ]


def variances(reward: Tensor) -> tuple[float, float, float]:
    """Variance of rewards `[K]` about their mean, summed, from one list.

    Claimed by all pairs as if independent; actual of all pairs; of the likelihood of rankings.
    """
    size = len(reward)
    order = torch.tensor(list(permutations(range(size)))).double()  # a score of each response
    prob = log_ranking(reward, order).exp()
    wins = (order[:, :, None] > order[:, None, :]).double()  # [K!, K, K]

    def of_pairs(r: Tensor) -> Tensor:
        return (wins * logsigmoid(r[:, None] - r)).sum((1, 2))

    scores = [
        torch.autograd.functional.jacobian(value, reward)
        for value in (of_pairs, lambda r: log_ranking(r, order))
    ]
    spread, fisher = ((prob[:, None] * score).T @ score for score in scores)
    hessian = -torch.autograd.functional.hessian(lambda r: prob @ of_pairs(r), reward)
    inverse = torch.linalg.pinv(hessian, hermitian=True)
    actual = inverse @ spread @ inverse
    efficient = torch.linalg.pinv(fisher, hermitian=True)
    return inverse.trace().item(), actual.trace().item(), efficient.trace().item()
