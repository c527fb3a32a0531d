"""Metrics of the responses of a step, by the names of TRL.

    reward                     E_q[r]
    reward_std                 standard deviation of r within the responses to a prompt
    frac_reward_zero_std       share of prompts whose responses all have one reward
    kl                         KL(q || p0), nats per response
    kl_per_token               KL(q || p0) over the mean number of tokens
    completions/mean_length    number of tokens of a response, the end id included
    completions/clipped_ratio  share of responses without an end id, truncated after T tokens

Means over prompts, those of rewards over the prompts to which a reward applies. A response has the
weight of a mean under q, which is 1/K on-policy.
"""

import math
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.objectives.parts.draws import Draws, joined, responses
from inference.programs import Program
from model import AlignmentModel, ResponseSpace

Metrics = dict[str, float]
"""Numbers of one step, by name."""
LENGTH = "completions/mean_length"
REWARD = ("reward", "reward_std", "frac_reward_zero_std")


class ModelRuns(Messenger):
    """Record of all runs of a model in a step: the responses, and the factors by name."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[tuple[Tensor, dict[str, Tensor]]] = []

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["name"] == "response" and isinstance(msg["value"], Tensor):
            self._runs.append((msg["value"].detach(), {}))
        if isinstance(msg["fn"], Unit) and self._runs:
            log_factor, mask = msg["fn"].log_factor.detach(), msg["mask"]
            if mask is not None:
                mask = torch.as_tensor(mask, device=log_factor.device)
                log_factor = torch.where(mask, log_factor, math.nan)
            self._runs[-1][1][msg["name"]] = log_factor

    def reward(self, program: Program, draws: list[Draws]) -> Tensor | None:
        """r of the draws, `[K, N]`, float64, NaN for a prompt to which no reward applies.

        None for a program without rewards; empty if it did not run on the draws alone.
        """
        for model in (program, getattr(program, "model", None)):
            if isinstance(model, AlignmentModel) and model.rewards:
                reward = self._of_draws(model, draws) if draws else None
                return torch.empty(0) if reward is None else reward
        return None

    def _of_draws(self, model: AlignmentModel, draws: list[Draws]) -> Tensor | None:
        """r of the draws; None if the model did not run on the draws alone."""
        response, shape = responses(draws), draws[0].log_weight.shape
        beta = model.beta_at(draws[0].prompts)
        values, rewards = [], []
        for value, factors in self._runs:
            named = [log_factor for name, log_factor in factors.items() if name in model.rewards]
            if named and value.shape[-2:] == draws[0].values["response"].shape[-2:]:
                each = torch.stack(torch.broadcast_tensors(*named)).double()
                total = each.nansum(0).masked_fill(each.isnan().all(0), math.nan)
                total = total.broadcast_to((*value.shape[:-2], shape[-1]))
                values.append(value.reshape(-1, *value.shape[-2:]))
                rewards.append((total * beta).reshape(-1, shape[-1]))
        if response is None or sum(map(len, values)) < len(response):
            return None
        scored, reward = (joined(parts)[-len(response) :] for parts in (values, rewards))
        # the same memory is told without a wait for the device
        is_same = scored.data_ptr() == response.data_ptr() and scored.shape == response.shape
        return reward if is_same or torch.equal(scored, response) else None


def response_numbers(
    draws: list[Draws], share: Tensor | None, space: ResponseSpace | None, reward: Tensor | None
) -> dict[str, Tensor | float]:
    """Numbers of the draws of a step, without a wait for the device.

    Lengths are left out without a response space.

    Args:
        draws: draws of the guide in the step.
        share: `[K, N]`, share of each draw in a mean under q; None without draws.
        space: the set of responses; None for a guide with another distribution.
        reward: r of the draws, `[K, N]`, NaN for prompts to which no reward applies; an empty
            tensor if unknown, None without rewards.
    """
    response = responses(draws)
    numbers: dict[str, Tensor | float] = {}
    if space is not None:
        numbers = {LENGTH: math.nan, "completions/clipped_ratio": math.nan}
        if response is not None and share is not None:
            is_token = space.is_token(response)  # [K, N, T]
            has_end = torch.isin(response, space.end_ids).any(-1)
            numbers[LENGTH] = _mean(share, is_token.sum(-1).double())
            numbers["completions/clipped_ratio"] = _mean(share, (~has_end).double())
    if reward is not None:
        numbers |= dict(zip(REWARD, _of_reward(reward, share), strict=True))
    return numbers


def with_kl(metrics: Metrics) -> Metrics:
    """The metrics and KL(q || p0), the difference of `log_likelihood` and `elbo`."""
    metrics["kl"] = metrics["log_likelihood"] - metrics["elbo"]
    if LENGTH in metrics:
        metrics["kl_per_token"] = metrics["kl"] / (metrics[LENGTH] or math.nan)
    return metrics


def _of_reward(reward: Tensor, share: Tensor | None) -> list[Any]:
    """The three metrics of `[K, N]` rewards; NaN if unknown, or if none applies to a prompt."""
    if share is None or reward.shape != share.shape:
        return [math.nan] * len(REWARD)
    absent = reward.isnan().all(0)
    reward = reward.masked_fill(absent, 0.0)
    mean, num = (share * reward).sum(0), len(reward)
    variance = (share * (reward - mean).square()).sum(0) * (num / max(1, num - 1))
    std = variance.sqrt() if num > 1 else variance * math.nan
    is_constant = (reward.amax(0) == reward.amin(0)).double()
    columns = torch.stack([mean, std, is_constant]).masked_fill(absent, 0.0)
    return [*columns.sum(1) / (~absent).sum()]


def _mean(share: Tensor, values: Tensor) -> Tensor:
    return (share * values).sum(0).mean()
