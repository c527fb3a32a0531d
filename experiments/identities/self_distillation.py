"""Self-distillation: the teacher is the model itself, given a hint or feedback (SDFT, SDPO)."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.residuals import minimum
from experiments.identities.world import World, gradient_at, kl, mean_gradient
from experiments.shared.claims import Finding, within
from inference.roots import root

SHARPNESS = 20.0
"""Slope of the log-odds of the feedback "right" in the reward."""
RATE, STEPS = 0.01, 5000
"""Share of the student in the teacher's moving average at each step, and number of steps."""


def self_distillation(world: World) -> list[Finding]:
    """KL(q || p(x given c)) for feedback c, a teacher by Bayes' rule.

    One hint for all responses (SDFT, arXiv 2601.19897): with p0 as a fixed teacher, p0(x given c)
    is the posterior of the log likelihood log P(c given x), with log P(c) as log Z. The paper's
    teacher a is a moving average of the student: a student at a(x given c) multiplies the
    likelihood in again, until only responses of the largest likelihood are left (derived here).

    Feedback on each attempt (SDPO, arXiv 2601.20802), with the model q of this step as the teacher:
    the advantage of x is log q(x given c)/q(x) in the mean over its feedback. This is KL(P(c given
    x) || q(c)), and the mean update the gradient of the mutual information of x and c (derived
    here): ascended to the capacity of the feedback, as by Blahut and Arimoto.
    """
    findings = []
    for share in (0.2, 0.8):
        log_feedback = _feedback(world, share)  # of wrong and right, [S, 2]
        subject = f"right under the prior {share:g}"
        findings += _of_hint(world, subject, log_feedback[:, 1])
        findings += _of_feedback(world, subject, log_feedback, share)
    return findings


def _of_hint(world: World, subject: str, log_right: Tensor) -> list[Finding]:
    """Findings on a fixed teacher, and on a teacher that follows the student."""
    log_joint, log_q = world.log_prior + log_right, world.log_guide
    log_teacher = log_joint.log_softmax(0)
    elbo = (log_q.exp() @ log_right).item() - kl(log_q, world.log_prior)
    identity = (
        f"{subject}, hint, E_q[log P(right given x)] - KL(q || p0) + KL(q || p0 given "
        "right) - log P(right)"
    )
    moving = (
        f"{subject}, hint, teacher that moves {RATE:.0%} to the student in each of {STEPS} "
        "steps, KL(q || p0 given right), nats"
    )
    return [
        exact(identity, elbo + kl(log_q, log_teacher) - log_joint.logsumexp(0)),
        within(moving, kl(_followed(world.log_prior, log_right), log_teacher), above=DISTINCT),
    ]


def _of_feedback(world: World, subject: str, log_feedback: Tensor, share: float) -> list[Finding]:
    """Findings on feedback on each attempt: the update, and the end of its ascent."""
    log_q = world.log_guide
    gradient = gradient_at(log_q, lambda log: _information(log, log_feedback))
    advantage = (log_feedback.exp() * (log_feedback - _marginal(log_q, log_feedback))).sum(1)
    update = mean_gradient(log_q, log_q, advantage)
    end = minimum(lambda log: -_information(log, log_feedback), world)
    low, high = (share, 1.0) if share < 0.5 else (0.0, share)
    right = f"{subject}, feedback, right at the end"
    of_update = f"{subject}, feedback, mean update - gradient of the mutual information"
    return [
        exact(of_update, update - gradient),
        within(right, (end.exp() @ log_feedback[:, 1].exp()).item(), above=low, below=high),
    ]


def _followed(log_teacher: Tensor, log_right: Tensor) -> Tensor:
    """log q of a student that is the teacher given right, as the teacher follows the student."""
    for _ in range(STEPS):
        log_q = (log_teacher + log_right).log_softmax(0)
        log_teacher = ((1 - RATE) * log_teacher.exp() + RATE * log_q.exp()).log()
    return log_q


def _feedback(world: World, share: float) -> Tensor:
    """log P(wrong given x) and log P(right given x), `[S, 2]`, a given share right under p0."""

    def odds(threshold: float) -> Tensor:
        return SHARPNESS * (world.reward - threshold)

    def excess(threshold: float) -> float:
        return (world.log_prior.exp() @ odds(threshold).sigmoid()).item() - share

    right = odds(root(excess, -2.0, 3.0))
    return torch.stack([logsigmoid(-right), logsigmoid(right)], 1)


def _marginal(log_q: Tensor, log_feedback: Tensor) -> Tensor:
    """log q(c), `[2]`."""
    return (log_q[:, None] + log_feedback).logsumexp(0)


def _information(log_q: Tensor, log_feedback: Tensor) -> Tensor:
    """Mutual information of response and feedback under q, nats."""
    prob = (log_q[:, None] + log_feedback).exp()
    return (prob * (log_feedback - _marginal(log_q, log_feedback))).sum()
