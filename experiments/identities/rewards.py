"""Rewards of several parts (GDPO), and the likelihood of an answer (VeriFree, LaTRO)."""

from functools import partial

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.sampling import bound_of_two
from experiments.identities.world import PROMPT, World, kl, mean_gradient, scores
from experiments.shared.claims import Finding, within
from inference import Enumeration
from model import AlignmentModel, AnswerLikelihood

BETA, SMALL = 4.0, 1.0
"""Weights of the KL beside advantages, which have no unit."""
EPSILON = 1e-4
"""Added to deviations, as trainers do."""


def gdpo(world: World) -> list[Finding]:
    """Each reward scaled by its own deviation, then the sum by its deviation (GDPO, 2601.05242).

    With an exact KL penalty p0 exp(sum_j r_j/(beta s sd_j))/Z is a fixed point, sd_j the deviations
    of the rewards and s that of the scaled sum, all under the fixed point itself (derived here).
    There are several. Here, the one reached from p0, two rewards of 0 or 1, met by 90% and by half
    of the draws of p0, and groups without end.
    """
    easy, hard = (
        (each >= _quantile(world.log_prior, each, share)).double()
        for each, share in ((world.reward, 0.1), (world.reward.flip(0), 0.5))
    )
    fixed_point = partial(_fixed_point, world.log_prior, easy, hard)

    def alone(log_q: Tensor) -> Tensor:
        """log q/p0 of a response with the easy reward alone, less that with the hard one alone."""
        log_ratio = world.log_ratio(log_q)
        return log_ratio[(easy > hard).int().argmax()] - log_ratio[(hard > easy).int().argmax()]

    both = [fixed_point(BETA, apart=apart) for apart in (False, True)]
    updates = [
        mean_gradient(log_q, log_q, advantage - BETA * world.log_ratio(log_q))
        for log_q, advantage, _ in both
    ]
    start = (world.log_prior + 50 * easy).log_softmax(0)
    another = fixed_point(BETA, apart=True, log_q=start)
    small = [fixed_point(SMALL, apart=apart) for apart in (False, True)]
    misses = [(log_q.exp() @ (1 - easy)).item() for log_q, *_ in (*small, another)]
    gaps = [alone(log_q) for log_q, *_ in both]
    subject = f"beta {BETA:g}, log q/p0 with the easy reward alone less with the hard one alone"
    weight = f"beta {BETA:g}, GDPO, weight of the easy reward over the hard one's"
    small_beta = f"beta {SMALL:g}, GDPO, share without the easy reward (GRPO: {misses[0]:.2g})"
    from_another = f"beta {BETA:g}, GDPO, share without the easy reward at another fixed point"
    return [
        exact(f"beta {BETA:g}, GRPO and GDPO, mean update at the fixed point from p0", *updates),
        exact(f"{subject}, GRPO, nats", gaps[0]),
        within(f"{subject}, GDPO, nats", gaps[1], above=0.0),
        within(weight, both[1][2], above=1.0),
        within(small_beta, misses[1], below=1e-6),
        within(from_another, misses[2], below=1e-6),
    ]


def _fixed_point(
    log_prior: Tensor,
    easy: Tensor,
    hard: Tensor,
    beta: float,
    *,
    apart: bool,
    log_q: Tensor | None = None,
) -> tuple[Tensor, Tensor, float]:
    """log q, its advantages, and the weight of the easy reward over the hard one's."""
    log_q = log_prior if log_q is None else log_q
    for _ in range(2000):
        scales = [_deviation(log_q, each) if apart else torch.ones(()) for each in (easy, hard)]
        total = easy / scales[0] + hard / scales[1]
        advantage = (total - log_q.exp() @ total) / _deviation(log_q, total)
        log_step = (log_prior + advantage / beta).log_softmax(0)
        log_q = (0.5 * log_q + 0.5 * log_step).log_softmax(0)
    return log_q, advantage, (scales[1] / scales[0]).item()


def verifree(world: World) -> list[Finding]:
    """p(y given z) of the right answer y as the reward of z (VeriFree, arXiv 2505.21493).

    A verifier that reads an answer drawn from p(. given z) pays the same in the mean. The weights
    of the answer's own tokens, which the method trains too, are held fixed here.
    """
    truth = _answered(world)
    prob, log_q = truth.log_likelihood[:, 0].exp(), world.log_guide  # p(y given z), [S]
    squares = scores(log_q).square().sum(1)
    noise = [
        (log_q.exp() @ (second * squares) - mean_gradient(log_q, log_q, prob).square().sum()).item()
        for second in (prob, prob.square())  # of a verifier, and of the likelihood
    ]
    beta = 0.05
    log_target = (world.log_prior + prob / beta).log_softmax(0)
    log_reward = truth.log_posterior[:, 0]
    of_likelihood = f"beta {beta:g}, KL(p0 exp(p(y given z)/beta)/Z || p0(z given y)), nats"
    return [
        within("noise over that of a verifier of one drawn answer", noise[1] / noise[0], below=1.0),
        within(of_likelihood, kl(log_target, log_reward), above=DISTINCT),
    ]


def latro(world: World) -> list[Finding]:
    """A known answer y: log Z = log p(y), its ELBO, a tighter bound (LaTRO, arXiv 2411.04282)."""
    truth, log_guide = _answered(world), world.log_guide
    log_answer, log_weight = truth.log_likelihood[:, 0], truth.log_joint[:, 0] - log_guide
    log_z = truth.log_z.item()  # log sum_z p0(z) p(y given z)
    gap = kl(log_guide, truth.log_posterior[:, 0])
    elbo = (log_guide.exp() @ log_answer).item() - kl(log_guide, world.log_prior)
    two = bound_of_two(log_weight, log_guide.exp())
    return [
        exact("E_q[log p(y given z)] - KL(q || p0) + KL(q || p*) - log p(y)", elbo + gap - log_z),
        within("bound of two rationales less that of one, nats", two - elbo, above=0),
        within("log p(y) less the bound of two, nats", log_z - two, above=0),
    ]


def _answered(world: World) -> Enumeration:
    """Prior given the answer w2: the likelihood of a response z is p(w2 given z)."""
    prior = world.model.prior
    prompts = prior.encode([PROMPT], columns={"answer": ["w2"]})
    model = AlignmentModel(prior, {}, 1.0, factors={"answer": AnswerLikelihood(prior)})
    return Enumeration(model, prompts)


def _deviation(log_q: Tensor, values: Tensor) -> Tensor:
    """Standard deviation of values under q."""
    prob = log_q.exp()
    return (prob @ (values - prob @ values).square()).sqrt() + EPSILON


def _quantile(log_prior: Tensor, values: Tensor, share: float) -> Tensor:
    """Least value with at least a share of the prior's mass below it."""
    ordered, order = values.sort()
    return ordered[int((log_prior.exp()[order].cumsum(0) < share).sum()) + 1]
