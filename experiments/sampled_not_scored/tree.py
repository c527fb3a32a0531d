"""Samplers made of a guide, token by token, and the ascent of their expected update on a tree."""

from collections.abc import Callable

import torch
from torch import Tensor

from model import AlignmentModel, Prompts

RATE = 0.05
"""Adam's learning rate at the start."""
Sampler = Callable[[Tensor], Tensor]
"""Function of log q of the next token, `[S, T, V]`, that returns log a."""
AS_SCORED = "as scored"


def at_temperature(temperature: float) -> Sampler:
    """Draw from q^(1/temperature)."""
    return lambda log_q: (log_q / temperature).log_softmax(-1)


def top_k(k: int) -> Sampler:
    """Draw from the k likeliest tokens."""

    def sampler(log_q: Tensor) -> Tensor:
        least = log_q.topk(k, -1).values[..., -1:].detach()
        return log_q.masked_fill(log_q < least, -torch.inf).log_softmax(-1)

    return sampler


def top_p(p: float) -> Sampler:
    """Draw from the likeliest tokens that together have probability p, the last one included."""

    def sampler(log_q: Tensor) -> Tensor:
        ordered, order = log_q.detach().sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        is_out = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)
        return log_q.masked_fill(is_out, -torch.inf).log_softmax(-1)

    return sampler


SAMPLERS: dict[str, Sampler] = {
    AS_SCORED: at_temperature(1.0),
    "temperature 0.7": at_temperature(0.7),
    "temperature 1.5": at_temperature(1.5),
    "top-k of 3": top_k(3),
    "top-p of 0.9": top_p(0.9),
}
"""Samplers by name."""


class Tree:
    """A distribution over all responses to one prompt, free at every prefix; p0 at first."""

    def __init__(self, model: AlignmentModel, prompts: Prompts) -> None:
        prior = model.prior(prompts)
        self.response = prior.enumerate_support()[:, 0]  # [S, T]
        self.is_token = prior.space.is_token(self.response)
        logits = prior.next_token_logits(prior.enumerate_support())[:, 0].double()  # [S, T, V]
        tables, nodes, start = [], [], 0
        for t in range(self.response.shape[1]):
            prefix = self.response[:, : t + 1].clone()
            prefix[:, t] = 0  # the prompt alone has a column too
            _, index = prefix.unique(dim=0, return_inverse=True)
            table = logits.new_zeros(int(index.max()) + 1, logits.shape[-1])
            is_token = self.is_token[:, t]
            tables.append(table.index_put((index[is_token],), logits[is_token, t]))
            nodes.append(index + start)
            start += len(table)
        self.nodes = torch.stack(nodes, 1)  # [S, T]
        self.table = torch.cat(tables).requires_grad_()

    def log_prob(self, sampler: Sampler) -> Tensor:
        """log a of all responses, `[S]`, nats."""
        log_next = sampler(self.table.log_softmax(-1))[self.nodes]  # [S, T, V]
        log_token = log_next.gather(-1, self.response[..., None]).squeeze(-1)
        return log_token.masked_fill(~self.is_token, 0.0).sum(-1)


def ascend(tree: Tree, sampler: Sampler, score: Sampler, log_joint: Tensor, steps: int) -> float:
    """Follow the expected update: draws of the sampler, the gradient and the KL of the score.

    Returns the norm of the update at the last step, which is near 0 if the ascent has converged.
    """
    optimizer = torch.optim.Adam([tree.table], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        prob = tree.log_prob(sampler).detach().exp()
        log_score = tree.log_prob(score)
        log_weight = torch.where(prob > 0, log_joint - log_score.detach(), 0.0)
        advantage = log_weight - (prob * log_weight).sum()
        optimizer.zero_grad()
        is_drawn = prob > 0
        (-(prob * advantage)[is_drawn] * log_score[is_drawn]).sum().backward()
        optimizer.step()
        schedule.step()
    assert tree.table.grad is not None
    return tree.table.grad.norm().item()
