"""Soups: the mean of the weights of two guides, in place of the product of their distributions."""

import torch

from experiments.identities.world import World, kl
from experiments.shared.ascend import ascend
from experiments.shared.claims import Finding, within
from guides import FineTuned
from inference import Enumeration
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

STEPS = 60
"""Number of steps of a fit by the exact gradient."""


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
            ascend(FineTuned(prior), truth, STEPS, learning_rate=rate, kl_penalty=True)
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
