"""Sampled is not scored: temperature, top-k, top-p or a mask in the sampler alone.

A trainer draws responses from a sampler a, made of the guide q, and scores them as draws of q.

Claim: the expected update of RLOO vanishes where log p* - log q is constant on the support of a.
With a temperature q is then the posterior, although the responses that are drawn are not of the
posterior. With top-k or top-p, q has the ratios of the posterior within the support, and keeps a
share outside that no draw corrects. Scored as sampled, a is the posterior given its support.
Source: derived here; reports in TRL's issues 6789, 6944, 4159.
Printed: KL to the posterior of the guide and of the sampler, KL of the sampler to the posterior
given its support, and the guide's share outside the support, nats and probability. All responses
are listed, and the expected update is followed for a number of steps. The norm of the last update
is printed too: a verdict on an update that has not vanished is one on the number of steps.

    python -m experiments.sampled_not_scored
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from experiments.sampled_not_scored.tree import AS_SCORED, SAMPLERS, Sampler, Tree, ascend
from experiments.shared.argument_types import Count, Positive, count
from experiments.shared.claims import ClaimArguments, Finding, conclude, within
from experiments.shared.command_line import run_script
from experiments.shared.tables import table_of
from inference import Enumeration
from inference.enumeration import kl
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment

EXACT = 1e-4
"""Largest KL of distributions that are one, nats, at the end of the ascent."""
GUIDE, WITHIN, GUIDE_WITHIN = "guide", "sampler, given support", "guide, given support"
OUTSIDE, UPDATE = "guide's share outside", "last update"


@dataclass(frozen=True)
class SampledNotScored(ClaimArguments):
    """Follow the expected update of RLOO with a sampler that is not the guide."""

    max_new_tokens: Annotated[int, count(1, 3, "all responses are listed")] = 2
    """Largest number of tokens in a response, T."""
    beta: Positive = 0.3
    """Reward per nat."""
    steps: Count = 1500
    """Number of steps of Adam along the expected update."""


def main(args: SampledNotScored) -> list[Finding]:
    prior = grammar_prior(args.max_new_tokens)
    prompts = prior.encode(["the film was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), args.beta)
    truth = Enumeration(model, prompts)
    log_joint, log_posterior = truth.log_joint[:, 0], truth.log_posterior[:, 0]
    rows, findings = {}, []
    for name, sampler in SAMPLERS.items():
        scores = {"": SAMPLERS[AS_SCORED]}
        scores |= {} if name == AS_SCORED else {", scored as sampled": sampler}
        for scored, score in scores.items():
            tree = Tree(model, prompts)
            update = ascend(tree, sampler, score, log_joint, args.steps)
            numbers = measured(tree, sampler, log_posterior) | {UPDATE: update}
            rows[name + scored] = numbers
            findings += judged(name + scored, numbers, is_scored=bool(scored))
    return conclude(__doc__, [table_of("At the end, nats and probability", rows)], findings)


@torch.no_grad()
def measured(tree: Tree, sampler: Sampler, log_posterior: Tensor) -> dict[str, float]:
    """Distances of guide and sampler to the posterior, and the share outside the support."""
    log_guide, log_sampler = tree.log_prob(SAMPLERS[AS_SCORED]), tree.log_prob(sampler)
    is_drawn = ~log_sampler.isneginf()
    within = log_posterior.masked_fill(~is_drawn, -torch.inf).log_softmax(0)
    guide_within = log_guide.masked_fill(~is_drawn, -torch.inf).log_softmax(0)
    return {
        GUIDE: kl(log_guide, log_posterior).item(),
        "sampler": kl(log_sampler, log_posterior).item(),
        WITHIN: kl(log_sampler, within).item(),
        GUIDE_WITHIN: kl(guide_within, within).item(),
        OUTSIDE: log_guide.exp()[~is_drawn].sum().item(),
    }


def judged(name: str, numbers: dict[str, float], *, is_scored: bool) -> list[Finding]:
    """Findings about one sampler."""
    if is_scored:
        subject = f"{name}, KL of the sampler to the posterior given its support"
        return [within(subject, numbers[WITHIN], below=EXACT)]
    subject = f"{name}, KL of the guide to the posterior, both given the support"
    findings = [within(subject, numbers[GUIDE_WITHIN], below=EXACT)]
    if name != AS_SCORED:
        subject = f"{name}, KL of the sampler to the posterior"
        findings.append(within(subject, numbers["sampler"], above=100 * EXACT))
    return findings


if __name__ == "__main__":
    run_script(main, SampledNotScored)
