"""Draws of the guide itself, held fixed in the gradient: pairs for DPO, responses for a teacher."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.preferences import judged, loss_of
from experiments.identities.residuals import descend, pairs
from experiments.identities.training import nats_left
from experiments.identities.world import World, gradient_at, kl
from experiments.shared.claims import Finding, within
from guides import GUIDES, Guide, NGram
from inference import random_state
from inference.direct_preferences import LIKELIHOODS
from inference.programs import autoregressive, log_guide_at
from model.common.minimise import minimise

STEPS = 400
"""Number of steps of a descent on pairs."""
BETAS, ROUNDS = (0.25, 1.0), 1000
"""Log-odds per nat of judge and loss, and number of mean updates, of online DPO."""
MAX_STEPS = 300
"""Largest number of steps of a descent to a teacher."""


def on_policy_pairs(world: World) -> list[Finding]:
    """Online DPO (OAIF, arXiv 2402.04792), and weights for pairs of the prior (WPO, 2406.11827).

    The weight of a pair has no gradient. WPO weighs a pair by the geometric mean probability of a
    token of both responses under the guide. All have the posterior as the optimum of a rich guide.
    """
    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "the prior": lambda log_q: world.log_prior,
        "the prior, weighed": lambda log_q: world.log_prior + log_q / world.length,
        "the guide": lambda log_q: log_q,
    }
    slopes = [
        gradient_at(world.log_posterior, partial(_loss, world, draw)) for draw in draws.values()
    ]
    ends = {name: _descended(world, draw) for name, draw in draws.items()}
    least = nats_left(world, world.prompts)
    excess = {name: world.gap(log_q) - least for name, log_q in ends.items()}
    of_prior = excess.pop("the prior")
    weighed, of_guide = (value / of_prior for value in excess.values())
    modes = [kl(world.log_posterior, ends[name]) for name in ("the prior", "the guide")]
    subject = f"bigrams, excess of KL(q || p*) over the least of {least:.2g} nats, over that of the"
    forward = f"bigrams, KL(p* || q), pairs of the guide, nats (of the prior: {modes[0]:.2g})"
    return [
        exact(f"gradient at q = p*, pairs of {'; '.join(draws)}", *slopes),
        within(f"{subject} prior, pairs of the guide", of_guide, below=0.1),
        within(f"{subject} prior, weighed pairs of the prior", weighed, below=1.0),
        within("bigrams, the same share for weighed pairs, far from 0", weighed, above=0.5),
        within(forward, modes[1], above=modes[0]),
    ]


def online_dpo(world: World) -> list[Finding]:
    """DPO on the guide's own pairs, where a rich guide ends from p0 (OAIF, arXiv 2402.04792).

    A step of log q is the mean update: the slopes of the loss at all pairs with each response. The
    judge is that of Bradley and Terry, or always favours the larger reward.
    """
    first, second = pairs(world.log_joint - world.log_prior)
    certain = torch.heaviside(first - second, first.new_tensor(0.5))

    def ended(wins: Tensor, beta: float) -> Tensor:
        log_q = world.log_prior
        for _ in range(ROUNDS):
            one, other = pairs(world.log_ratio(log_q))
            slope = wins - (beta * (one - other)).sigmoid()
            log_q = (log_q + slope @ log_q.exp() / beta).log_softmax(0)
        return log_q

    gaps = [world.gap(ended((beta * (first - second)).sigmoid(), beta)) for beta in BETAS]
    best = ended(certain, min(BETAS)).exp()[world.reward.argmax()].item()
    betas = " and ".join(f"{beta:g}" for beta in BETAS)
    by_chance = f"labels by their probability, beta {betas}, KL(q || p*) at the end, nats"
    always = (
        f"labels that favour the larger reward, beta {min(BETAS):g}, share of the best response"
    )
    return [exact(by_chance, *gaps), within(always, best, above=0.99)]


def _loss(world: World, draw: Callable[[Tensor], Tensor], log_q: Tensor) -> Tensor:
    """DPO's loss of pairs of draws of a distribution, which is held fixed."""
    wins, beta = judged(world)
    weight = pairs(draw(log_q).detach()).sum(0).exp() * wins  # the winner first
    return loss_of(LIKELIHOODS["dpo"], weight / weight.sum(), beta, world.log_ratio, log_q)


def _descended(world: World, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """log q of bigrams at the end of a descent of the loss, `[S]`."""
    guide = NGram(world.model.prior).double()

    def log_q() -> Tensor:
        return log_guide_at(guide, world.prompts, world.truth.support)[:, 0]

    descend(lambda: _loss(world, draw, log_q()), guide.parameters(), STEPS)
    return log_q().detach()


def gkd(world: World) -> list[Finding]:
    """KL of each next token, on the student's own responses held fixed (GKD, arXiv 2306.13649).

    The gradient leaves out how the student's responses change. It is 0 at a student equal to the
    teacher. In a small family it is 0 elsewhere than the gradient of KL(q || p0).
    """
    left, of_whole = (_distilled(world, "n-gram", whole=whole) for whole in (False, True))
    of_table = _distilled(world, "tabular", whole=False)
    excess = 100 * (left / of_whole - 1)
    bigrams = f"bigrams, KL(q || p0) where it ends above the least of {of_whole:.3f} nats, %"
    return [
        within("a table of all prefixes, KL(q || p0) where it ends, nats", of_table, below=0.01),
        within(bigrams, excess, above=1.0),
    ]


def _distilled(world: World, family: str, *, whole: bool) -> float:
    """KL(q || p0) after descent of the KL of responses, or of each token on fixed responses."""
    with random_state.isolated(0):
        student = GUIDES[family](world.model.prior, world.prompts).double()
        for parameter in student.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    def left() -> Tensor:
        log_q = log_guide_at(student, world.prompts, world.truth.support)[:, 0]
        return (log_q.exp() * (log_q - world.log_prior)).sum()

    if whole:
        return minimise(left, student.parameters(), max_steps=MAX_STEPS)
    descend(partial(_token_by_token, world, student), student.parameters(), MAX_STEPS)
    return left().item()


def _token_by_token(world: World, student: Guide) -> Tensor:
    """The same number; its gradient is that with the probabilities of the responses fixed."""
    support, q = world.truth.support, student.distribution(world.prompts)
    log_q = q.next_token_logits(support).log_softmax(-1)
    with torch.no_grad():
        log_p = world.model.prior(world.prompts).next_token_logits(support).log_softmax(-1)
        prob = autoregressive(q).log_prob(support)[:, 0].exp()
    return (prob * (log_q.exp() * (log_q - log_p)).sum((-2, -1))[:, 0]).sum()
