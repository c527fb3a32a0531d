"""Self-training on correct draws: EM, and the objective of each rule that chooses the draws."""

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.targets import THRESHOLD
from experiments.identities.world import World, kl, mean_gradient, scores
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error

ROUNDS = 300
"""Number of rounds of self-training."""


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
