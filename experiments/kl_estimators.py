"""The KL that each popular implementation of the KL penalty optimises.

k1, k2 and k3 (Schulman 2020) estimate KL(q || p0) from samples. An implementation puts one of them
into the reward, or differentiates it as a loss, token by token or for the whole response.

Claim: only k1 in the reward with returns-to-go, and k2 of the whole response as a loss, have the
gradient of KL(q || p0). k3 as a loss, as in GRPO, has the gradient of the forward KL, position by
position. k1 as a loss has no gradient.
Source: derived and measured here; GRPO: Shao et al. 2024, arXiv 2402.03300.
Printed: relative distance of each implementation's mean gradient from the gradients of four
objectives. Every mean is a sum over all responses of the enumerable world.

    python -m experiments.kl_estimators
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from experiments.shared.argument_types import Seed, count, number
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.tables import pair_table
from guides import FineTuned
from inference import random_state
from inference.diagnostics.gradients import moved_guide, relative_error
from inference.diagnostics.kl_estimators import k1, k2, k3
from model import Prompts, ResponseDistribution, grammar_prior
from model.prior.grammar import PROMPTS

Surrogate = Callable[[Tensor], Tensor]
"""Function of log q - log p0 of each token, `[..., T]` -> `[...]`; only log q has a gradient."""


@dataclass(frozen=True)
class KLEstimators(Arguments):
    """Enumerate the mean gradient of every way to penalise the KL."""

    max_new_tokens: Annotated[int, count(1, 5, "all 9^T responses are listed")] = 3
    """Largest number of tokens in a response, T. With 3 tokens, a prompt has 820 responses."""
    distance: Annotated[
        float, number(above=0, at_most=10, why="the weights would be nothing but noise")
    ] = 0.05
    """Standard deviation of the noise that moves the guide's weights away from the prior's."""
    seed: Seed = 0
    """Random seed of the noise."""


def in_reward(k: Surrogate) -> Surrogate:
    """REINFORCE with minus k of each token as the token's reward, and returns-to-go."""

    def surrogate(log_ratio: Tensor) -> Tensor:
        to_go = k(log_ratio).flip(-1).cumsum(-1).flip(-1)
        return (to_go.detach() * log_ratio).sum(-1)

    return surrogate


def in_own_reward(k: Surrogate) -> Surrogate:
    """REINFORCE with minus k of each token as the reward of this token alone."""
    return lambda log_ratio: (k(log_ratio).detach() * log_ratio).sum(-1)


def as_loss(k: Surrogate) -> Surrogate:
    """k of each token, differentiated with the samples fixed."""
    return lambda log_ratio: k(log_ratio).sum(-1)


def of_response(k: Surrogate) -> Surrogate:
    """k of the whole response's log-ratio, differentiated with the samples fixed."""
    return lambda log_ratio: k(log_ratio.sum(-1))


IMPLEMENTATIONS: dict[str, Surrogate] = {
    "k1 in the reward, returns-to-go (RLHF's PPO)": in_reward(k1),
    "k1 in the reward, its own token only": in_own_reward(k1),
    "k1 as a loss, token by token": as_loss(k1),
    "k2 as a loss, token by token": as_loss(k2),
    "k2 as a loss, whole response": of_response(k2),
    "k3 as a loss, token by token (GRPO)": as_loss(k3),
    "k3 as a loss, whole response": of_response(k3),
    "k3 in the reward, returns-to-go": in_reward(k3),
}


def main(args: KLEstimators) -> dict[str, dict[str, float]]:
    """Print the relative distances, and return them by implementation and objective.

    The column `size` is the norm of the mean gradient.
    """
    prior = grammar_prior(args.max_new_tokens)
    prompts = prior.encode(PROMPTS)
    with random_state.isolated(args.seed):
        guide = moved_guide(prior, args.distance)
    distances = relative_distances(prior(prompts), guide, prompts)
    rows = {
        name: [(column, f"{value:.1e}") for column, value in row.items()]
        for name, row in distances.items()
    }
    print(pair_table("Relative distance of the mean gradient from the gradient of", rows))
    return distances


def relative_distances(
    prior: ResponseDistribution, guide: FineTuned, prompts: Prompts
) -> dict[str, dict[str, float]]:
    """Distance of each mean gradient from each objective's, over the norm of the objective's.

    "By position" is the KL of the next token, summed over the positions of responses from q, with
    the prefixes not differentiated.
    """
    q = guide.distribution(prompts)
    support = q.enumerate_support()
    parameters = list(guide.parameters())

    def gradient(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    log_q, log_p = q.log_prob_per_token(support), prior.log_prob_per_token(support)  # [S, N, T]
    prob = log_q.sum(-1).exp()  # [S, N]
    log_q_next = q.next_token_logits(support).log_softmax(-1)  # [S, N, T, V]
    log_p_next = prior.next_token_logits(support).log_softmax(-1)
    reverse = (log_q_next.exp() * (log_q_next - log_p_next)).sum((-2, -1))
    forward = (log_p_next.exp() * (log_p_next - log_q_next)).sum((-2, -1))
    objectives = {
        "KL(q || p0)": (prob * (log_q - log_p).sum(-1)).sum(),
        "KL(q || p0) by position": (prob.detach() * reverse).sum(),
        "KL(p0 || q) by position": (prob.detach() * forward).sum(),
        "KL(p0 || q)": (log_p.sum(-1).exp() * (log_p - log_q).sum(-1)).sum(),
    }
    targets = {name: gradient(value) for name, value in objectives.items()}
    distances = {}
    for name, surrogate in IMPLEMENTATIONS.items():
        mean = gradient((prob.detach() * surrogate(log_q - log_p)).sum())
        distances[name] = {key: relative_error(mean, goal) for key, goal in targets.items()}
        distances[name]["size"] = mean.norm().item()
    return distances


if __name__ == "__main__":
    run_script(main, KLEstimators)
