"""Self-training on correct draws, and self-distillation by the model itself, given a hint."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.residuals import minimum
from experiments.identities.targets import THRESHOLD
from experiments.identities.world import World, gradient_at, kl, mean_gradient, scores
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference.roots import root

ROUNDS = 300
"""Number of rounds of self-training."""
SHARPNESS = 20.0
"""Slope of the log-odds of the feedback "right" in the reward."""
RATE, FOLLOWED = 0.01, 5000
"""Share of the student in the teacher's moving average at each step, and number of steps."""


def star(world: World) -> list[Finding]:
    """Fits of correct draws, all of them or as many for each prompt (STaR, 2203.14465; ReST-EM).

    Three prompts share a guide that is blind to the prompt, so that they compete. The correct
    responses of the first two overlap, the third has all others. For draws without end, a round
    fits the mean of the posteriors q(x | correct), weighed alike or by the accuracies q(correct).
    """
    first, second = (reward >= THRESHOLD for reward in (world.reward, world.reward.flip(0)))
    correct = torch.stack([first, second, ~(first | second)])
    by_prompt, by_draw = (_path(world.log_prior, correct, alike=alike) for alike in (True, False))
    rates, log_given = _given_correct(world.log_guide, correct)
    score, prob = scores(world.log_guide), world.log_guide.exp()
    of_fit = (rates[:, None] * log_given.exp()).sum(0) @ score
    of_accuracy = mean_gradient(world.log_guide, world.log_guide, correct.double().sum(0))
    subject = "least gain of a round"
    of_logs = f"as many draws for each prompt, {subject}, sum of log accuracies, nats"
    lost = f"all correct draws, {subject}, sum of log accuracies, nats"
    accuracy = f"all correct draws, {subject}, mean accuracy"
    least_by_prompt = (
        "as many draws for each prompt, least accuracy at the end (at the start: "
        f"{by_prompt[0].min():.2g})"
    )
    least = f"all correct draws, least accuracy at the end (at the start: {by_draw[0].min():.2g})"
    of_gradient = "all correct draws, gradient of the fit - gradient of the accuracy"
    return [
        exact(of_gradient, relative_error(of_fit, of_accuracy)),
        within(of_logs, by_prompt.log().sum(1).diff().min(), above=-1e-12),
        within(lost, by_draw.log().sum(1).diff().min(), below=-0.01),
        within(accuracy, by_draw.mean(1).diff().min(), above=-1e-12),
        within(least_by_prompt, by_prompt[-1].min(), above=0.1),
        within(least, by_draw[-1].min(), below=0.01),
        *_rationalisation(world, first, prob),
    ]


def _path(log_guide: Tensor, correct: Tensor, *, alike: bool) -> Tensor:
    """Accuracies `[R + 1, P]` at the start and after each round."""
    accuracy = []
    for _ in range(ROUNDS + 1):
        rates, log_given = _given_correct(log_guide, correct)
        accuracy.append(rates)
        weight = torch.full_like(rates, 1 / len(rates)) if alike else rates / rates.sum()
        log_guide = (weight @ log_given.exp()).log()
    return torch.stack(accuracy)


def _given_correct(log_guide: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracies `[P]`, and log q(x | correct) `[P, S]`, of P prompts with one guide."""
    masked = log_guide.masked_fill(~correct, -torch.inf)
    return masked.logsumexp(1).exp(), masked.log_softmax(1)


def _rationalisation(world: World, correct: Tensor, prob: Tensor) -> list[Finding]:
    """Correct draws of a guide that was shown the answer, here the world's, for those of p0."""
    log_given, log_hinted = (
        log.masked_fill(~correct, -torch.inf).log_softmax(0)
        for log in (world.log_prior, world.log_guide)
    )
    weight = (world.log_prior - world.log_guide).exp() * prob * correct
    log_weighed = (weight / weight.sum()).log()
    keep = correct.nonzero()[:, 0]
    plain, weighed = (kl(log_given[keep], log[keep]) for log in (log_hinted, log_weighed))
    subject = "correct draws of another guide, as with a hint"
    return [
        exact(f"{subject}, weighed by p0/q, KL(p0 given correct || fit), nats", weighed),
        within(f"{subject}, not weighed, KL(p0 given correct || fit), nats", plain, above=DISTINCT),
    ]


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
        f"{subject}, hint, teacher that moves {RATE:.0%} to the student in each of {FOLLOWED} "
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
    for _ in range(FOLLOWED):
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
