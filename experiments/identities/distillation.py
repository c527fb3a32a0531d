"""Distillation of a teacher: a prior without a reward, and a student as the guide."""

from functools import partial

import torch
from torch import Tensor

from experiments.identities.residuals import descend
from experiments.identities.world import World
from experiments.shared.claims import Finding, within
from guides import GUIDES, Guide
from inference import random_state
from inference.programs import autoregressive, log_guide_at
from model.common.minimise import minimise

STEPS = 300
"""Largest number of steps of a descent."""


def gkd(world: World) -> list[Finding]:
    """KL of each next token, on the student's own responses held fixed (GKD, arXiv 2306.13649).

    The gradient leaves out how the student's responses change. It is 0 at a student equal to the
    teacher. In a small family it is 0 elsewhere than the gradient of KL(q || p0).
    """
    left, of_whole = (_after(world, "n-gram", whole=whole) for whole in (False, True))
    of_table = _after(world, "tabular", whole=False)
    excess = 100 * (left / of_whole - 1)
    bigrams = f"bigrams, KL(q || p0) where it ends above the least of {of_whole:.3f} nats, %"
    return [
        within("a table of all prefixes, KL(q || p0) where it ends, nats", of_table, below=0.01),
        within(bigrams, excess, above=1.0),
    ]


def _after(world: World, family: str, *, whole: bool) -> float:
    """KL(q || p0) after descent of the KL of responses, or of each token on fixed responses."""
    with random_state.isolated(0):
        student = GUIDES[family](world.model.prior, world.prompts).double()
        for parameter in student.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    def left() -> Tensor:
        log_q = log_guide_at(student, world.prompts, world.truth.support)[:, 0]
        return (log_q.exp() * (log_q - world.log_prior)).sum()

    if whole:
        return minimise(left, student.parameters(), max_steps=STEPS)
    descend(partial(_token_by_token, world, student), student.parameters(), STEPS)
    return left().item()


def _token_by_token(world: World, student: Guide) -> Tensor:
    """The same number; its gradient is that with the probabilities of the responses fixed."""
    support, q = world.truth.support, student.distribution(world.prompts)
    log_q = q.next_token_logits(support).log_softmax(-1)
    with torch.no_grad():
        log_p = world.model.prior(world.prompts).next_token_logits(support).log_softmax(-1)
        prob = autoregressive(q).log_prob(support)[:, 0].exp()
    return (prob * (log_q.exp() * (log_q - log_p)).sum((-2, -1))[:, 0]).sum()
