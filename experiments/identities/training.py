"""Short fits: how near to the posterior each objective comes, and means of fitted weights."""

import torch
from torch import Tensor

from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from experiments.shared.tables import cell, mean_and_error
from experiments.shared.training import ascend, train
from guides import FineTuned, NGram
from inference import OBJECTIVES, Enumeration
from inference.programs import log_guide_at
from model import AlignmentModel, Prompts, TextReward, grammar_prior, vader_sentiment
from model.common.minimise import minimise

STEPS, BATCH, SEEDS = 40, 32, 6
"""Numbers of batches of fresh responses, of responses in a batch, and of fits, each of a world."""
MAX_STEPS = 300
"""Largest number of steps of a descent of the exact KL."""
ONCE = "leave-one-out"
"""Objective that takes one step on each batch."""
SOUP_STEPS = 60
"""Number of steps of a fit by the exact gradient."""


def left(name: str, steps: int) -> list[float]:
    """KL(q || p*) after some steps, nats, in each of some worlds."""
    nats = []
    for seed, world in enumerate(cases(SEEDS, priors=True)):
        guide, objective = FineTuned(world.model.prior), OBJECTIVES[name](num_particles=BATCH)
        train(guide, world.model, world.prompts, objective, steps, seed=seed)
        nats.append(world.truth.kl_guide_posterior(guide).mean().item())
    return nats


def against_once(name: str, epochs: int) -> list[Finding]:
    """KL left by an objective with several steps a batch, against one step a batch."""
    several, once = left(name, STEPS * epochs), left(ONCE, STEPS)
    runs = [{"left": s, "more": o - s} for s, o in zip(several, once, strict=True)]
    left_over, more = (mean_and_error(runs, key) for key in runs[0])
    after = f"KL(q || p*) after {STEPS * BATCH:,} fresh responses, nats"
    text = f"{SEEDS} worlds, {ONCE} less {name}, which leaves {cell(*left_over)}, {after}"
    return [within(text, more, above=0.0, num_runs=SEEDS)]


def gflownet(_: World) -> list[Finding]:
    """Trajectory balance with replay (arXiv 2310.04363)."""
    return against_once("trajectory-balance", 4)


def ppo(_: World) -> list[Finding]:
    """Several clipped steps on each batch (PPO, arXiv 1707.06347)."""
    return against_once("proximal", 4)


def inference_gaps(world: World) -> list[Finding]:
    """KL left by one guide of all prompts = best of the family + shared (arXiv 1801.03558).

    The family is bigrams, at the minimum of the exact KL, on three prompts at once and on each
    prompt alone. The difference is the amortisation gap.
    """
    prompts = world.model.prior.encode(["w1", "w2", "w3"])
    together = nats_left(world, prompts)
    alone = sum(nats_left(world, prompts[[n]]) for n in range(len(prompts))) / len(prompts)
    shared = together - alone
    return [
        within("approximation gap, a table for each prompt, nats", alone, above=0),
        within("amortisation gap, one table for all prompts, nats", shared, above=0),
        within("approximation less amortisation gap, nats", alone - shared, above=0),
    ]


def nats_left(world: World, prompts: Prompts) -> float:
    """Least KL(q || p*) of bigrams, nats, mean over prompts."""
    truth, guide = Enumeration(world.model, prompts), NGram(world.model.prior).double()

    def kl() -> Tensor:
        log_q = log_guide_at(guide, prompts, truth.support)
        return (log_q.exp() * (log_q - truth.log_posterior)).sum(0).mean()

    return minimise(kl, guide.parameters(), max_steps=MAX_STEPS)


def rewarded_soups(_: World) -> list[Finding]:
    """The mean of the weights of two guides, for the mean of their rewards (arXiv 2306.04488).

    The prior is that of the grammar, a trained network, with 820 responses. Fits of two rates end
    equally near to the posteriors of the two rewards.
    """
    prior = grammar_prior(max_new_tokens=3).double()
    prompts = prior.encode(["the film was"])
    rewards = [TextReward(vader_sentiment, prior), TextReward(num_words, prior)]
    truths = [Enumeration(AlignmentModel(prior, reward, 0.3), prompts) for reward in rewards]
    log_joint = torch.stack([truth.log_joint[:, 0] for truth in truths])
    log_exact = log_joint.mean(0).log_softmax(0)
    nats = []
    for rate in (1e-3, 3e-3):
        guides = [
            ascend(FineTuned(prior), truth, SOUP_STEPS, learning_rate=rate, kl_penalty=True)
            for truth in truths
        ]
        soup, weights = FineTuned(prior), [guide.state_dict() for guide in guides]
        means = {name: (weights[0][name] + weights[1][name]) / 2 for name in weights[0]}
        soup.load_state_dict(means)
        logs = [truths[0].log_guide(guide)[:, 0] for guide in (*guides, soup)]
        logs.append((logs[0] + logs[1]).div(2).log_softmax(0))
        nats.append([kl(log, log_exact) for log in logs])
    one, other, slow, product = nats[0]
    fast, of_fast = nats[1][2:]
    subject = "KL(q || posterior of the mean reward)"
    of_soup = f"{subject}, mean of weights, nats (nearest guide: {min(one, other):.2g})"
    over_product = f"{subject}, mean of weights over product of the guides"
    by_rate = f"{subject}, mean of weights, three times the learning rate over the first"
    return [
        within(of_soup, slow, below=min(one, other)),
        within(over_product, slow / product, fast / of_fast, above=2),
        within(by_rate, fast / slow, above=2),
    ]


def num_words(texts: list[str]) -> list[float]:
    """Number of words over four."""
    return [len(text.split()) / 4 for text in texts]
