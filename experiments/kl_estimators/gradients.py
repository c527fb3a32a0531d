"""Mean gradients of implementations and of objectives, as sums over all responses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from experiments.kl_estimators.implementations import (
    CORRECTIONS,
    IMPLEMENTATIONS,
    OFF_POLICY,
    Implementation,
)
from experiments.shared.gradients import relative_error
from guides import FineTuned
from model import Prompts, ResponseDistribution

Rows = dict[str, dict[str, float]]

OF_SAMPLER = "KL(q || p0) by position, prefixes of the sampler"
"""Objective of draws of another guide, for which the ratio of the token is enough."""


class Gradients:
    """Gradients at a guide q, for the prior p0.

    "By position" is the KL of the next token, summed over the positions of responses from q, with
    the prefixes not differentiated.
    """

    def __init__(self, prior: ResponseDistribution, guide: FineTuned, prompts: Prompts) -> None:
        q = guide.distribution(prompts)
        self._support = q.enumerate_support()
        self._parameters = list(guide.parameters())
        self._log_q = q.log_prob_per_token(self._support)  # [S, N, T]
        self._log_p = prior.log_prob_per_token(self._support)
        log_q_next = q.next_token_logits(self._support).log_softmax(-1)  # [S, N, T, V]
        log_p_next = prior.next_token_logits(self._support).log_softmax(-1)
        prob = self._log_q.sum(-1).exp()  # [S, N]
        log_ratio = (self._log_q - self._log_p).sum(-1)
        reverse = (log_q_next.exp() * (log_q_next - log_p_next)).sum((-2, -1))
        forward = (log_p_next.exp() * (log_p_next - log_q_next)).sum((-2, -1))
        self._prob = prob.detach()
        self._kl = (self._prob * log_ratio.detach()).sum()
        self._of_prefixes = reverse
        objectives = {
            "KL(q || p0)": (prob * log_ratio).sum(),
            "KL(q || p0) by position": (self._prob * reverse).sum(),
            "KL(p0 || q) by position": (self._prob * forward).sum(),
            "KL(p0 || q)": -(self._log_p.sum(-1).exp() * log_ratio).sum(),
            "chi2(q || p0)/2": 0.5 * (prob * log_ratio.exp()).sum(),
        }
        self._targets = {name: self._gradient(value) for name, value in objectives.items()}

    def on_policy(self) -> Rows:
        """Distances of each implementation from each objective, with draws of the guide.

        `size` is the norm of the mean gradient, `value` the mean estimate over KL(q || p0).
        """
        rows = {}
        for name, implementation in IMPLEMENTATIONS.items():
            row = self._row(implementation, self._prob, torch.zeros_like(self._log_q).detach())
            value = (self._prob * implementation.value(self._log_q - self._log_p)).sum() / self._kl
            rows[name] = row | {"value": value.item()}
        return rows

    def off_policy(self, older: FineTuned, prompts: Prompts) -> Rows:
        """Distances of implementations and corrections, with draws of an older guide.

        One objective more is the KL by position with prefixes that the older guide draws.
        """
        with torch.no_grad():
            log_a = older.distribution(prompts).log_prob_per_token(self._support)
        log_weight = (self._log_q - log_a).detach()
        prob = log_a.sum(-1).exp()
        of_sampler = {OF_SAMPLER: self._gradient((prob * self._of_prefixes).sum())}
        return {
            f"{name}, {correction}": self._row(implementation, prob, weight(log_weight), of_sampler)
            for name, implementation in OFF_POLICY.items()
            for correction, weight in CORRECTIONS.items()
        }

    def _row(
        self,
        implementation: Implementation,
        prob: Tensor,
        log_weight: Tensor,
        more: Mapping[str, Tensor] | None = None,
    ) -> dict:
        terms = implementation.terms(self._log_q - self._log_p)
        weights = log_weight if terms.shape[-1] > 1 else log_weight[..., -1:]
        mean = self._gradient((prob[..., None] * weights.exp() * terms).sum())
        goals = self._targets | dict(more or {})
        distances = {name: relative_error(mean, goal) for name, goal in goals.items()}
        return distances | {"size": mean.norm().item()}

    def _gradient(self, value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, self._parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])
