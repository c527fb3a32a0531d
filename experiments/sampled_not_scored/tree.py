"""A distribution over all responses to one prompt, and the ascent of an expected update."""

import torch
from torch import Tensor

from experiments.sampled_not_scored.samplers import Sampler
from model import AlignmentModel, Prompts

RATE = 0.05
"""Adam's learning rate at the start."""


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
