"""Expected updates of trainers, by target: scalars whose gradient by the logits of q they are."""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.targets.fixed_points import Problem

OPTIONS = {
    "mode-anchored": {"threshold": 0.8},
    "filtering": {"threshold": 0.8},
    "squared-residual": {"log_z": -0.5},
    "max-at-k": {"k": 3},
    "pass-at-k": {"k": 4, "threshold": 0.8},
}
"""Options of targets that need some."""
Update = Callable[[Tensor, Problem], Tensor]
"""Function of log q of all responses, `[S, N]`, and of the problem."""


def advantage(q: Tensor, reward: Tensor) -> Tensor:
    mean = (q * reward).sum(0)
    return ((reward - mean) / (q * (reward - mean).square()).sum(0).sqrt()).detach()


def regularised(reward: Callable[[Problem], Tensor]) -> Update:
    def update(log_q: Tensor, p: Problem) -> Tensor:
        return (log_q.exp() * (reward(p) - p.beta * (log_q - p.log_prior))).sum()

    return update


def grpo_update(log_q: Tensor, p: Problem) -> Tensor:
    q = log_q.exp()
    penalty = p.beta * (q * (log_q - p.log_prior)).sum()
    return (q.detach() * advantage(q, p.reward) * log_q).sum() - penalty


def k3(log_ratio: Tensor) -> Tensor:
    """k3 of log p0 - log q."""
    return log_ratio.exp() - 1 - log_ratio


def grpo_k3_update(log_q: Tensor, p: Problem) -> Tensor:
    q = log_q.exp()
    gain = advantage(q, p.reward) * log_q - p.beta * k3(p.log_prior - log_q)
    return (q.detach() * gain).sum()


def per_token(log_prob: Tensor, response: Tensor) -> Tensor:
    """log p(x_t | x_<t) of all responses, `[S, N, T]`, from their log p, by sums over prefixes."""
    columns = []
    for n in range(response.shape[1]):
        masses = [log_prob[:, n].logsumexp(0).expand(len(response))]
        for t in range(1, response.shape[2] + 1):
            prefix = response[:, n, :t]
            same = (prefix[:, None] == prefix).all(-1)  # [S, S]
            rows = log_prob[:, n].expand_as(same).masked_fill(~same, -torch.inf)
            masses.append(rows.logsumexp(1))
        columns.append(torch.stack(masses, -1).diff(dim=-1))
    return torch.stack(columns, 1)


def of_reward(q: Tensor, p: Problem) -> Tensor:
    return advantage(q, p.reward)


def of_rewards(q: Tensor, p: Problem) -> Tensor:
    """Advantages of GDPO."""
    parts = p.reward[None] if p.parts is None else p.parts
    total = torch.stack([advantage(q, part) for part in parts]).sum(0)
    return (total / (q * total.square()).sum(0).mean().sqrt()).detach()


def centred(q: Tensor, p: Problem) -> Tensor:
    return (p.reward - (q * p.reward).sum(0)).detach()


def token_k3_update(
    advantage_of: Callable[[Tensor, Problem], Tensor], *, mean: bool = False
) -> Update:
    def update(log_q: Tensor, p: Problem) -> Tensor:
        assert p.response is not None
        assert p.length is not None
        q = log_q.exp()
        tokens, prior = per_token(log_q, p.response), per_token(p.log_prior, p.response)
        gain = advantage_of(q, p) * log_q
        total = gain - p.beta * k3(prior - tokens).sum(-1)
        return (q.detach() * (total / p.length if mean else total)).sum()

    return update


def token_kl_update(advantage_of: Callable[[Tensor, Problem], Tensor]) -> Update:
    """k3 of each token times an importance ratio of 1, which is differentiated."""

    def update(log_q: Tensor, p: Problem) -> Tensor:
        assert p.response is not None
        q = log_q.exp()
        tokens, prior = per_token(log_q, p.response), per_token(p.log_prior, p.response)
        gain = advantage_of(q, p) * log_q
        ratio = (tokens - tokens.detach()).exp()
        return (q.detach() * (gain - p.beta * (ratio * k3(prior - tokens)).sum(-1))).sum()

    return update


def forward_kl_update(log_q: Tensor, p: Problem) -> Tensor:
    return (log_q.exp() * p.reward + p.beta * p.log_prior.exp() * log_q).sum()


def chi_squared_update(log_q: Tensor, p: Problem) -> Tensor:
    z, prior = (log_q - p.log_prior).exp(), p.log_prior.exp()
    return (prior * (z * p.reward - p.beta * (z * z.log() + (z - 1).square() / 2))).sum()


def mean_mirror_descent_update(log_q: Tensor, p: Problem) -> Tensor:
    prior = p.log_prior.exp()
    centred = p.reward - (prior * p.reward).sum(0)
    return -(prior * (centred - p.beta * (log_q - p.log_prior)).square()).sum()


def squared_residual_update(log_q: Tensor, p: Problem) -> Tensor:
    residual = p.log_prior + p.reward / p.beta - log_q - OPTIONS["squared-residual"]["log_z"]
    return -(p.log_prior.exp() * residual.square()).sum()


def length_normalised_update(log_q: Tensor, p: Problem) -> Tensor:
    assert p.length is not None
    log_ratio = (log_q - p.log_prior) / p.length
    residual = p.reward / p.beta - log_ratio
    log_z = (log_q.exp() * residual).sum(0).detach()  # the best log Z for this q
    return -(log_q.exp().detach() * (residual - log_z).square()).sum()


def anchored_reward(p: Problem) -> Tensor:
    threshold = OPTIONS["mode-anchored"]["threshold"]
    reward = p.reward.clone()
    for n in range(reward.shape[1]):
        above = [i for i in range(len(reward)) if p.reward[i, n] >= threshold]
        anchor = max(above, key=lambda i: p.log_prior[i, n].item())
        for i in above:
            distance = p.log_prior[anchor, n] - p.log_prior[i, n]
            reward[i, n] = p.reward[anchor, n] + p.beta * distance
    return reward


def quantiles(p: Problem) -> Tensor:
    below = (p.reward[:, None] <= p.reward).double()  # [S, S, N]
    return (p.log_prior.exp()[:, None] * below).sum(0)


def nash_update(log_q: Tensor, p: Problem) -> Tensor:
    """The opponent's share of the gradient is not the player's."""
    preference = (p.reward[:, None] - p.reward).sigmoid()  # [S, S, N]
    wins = torch.einsum("ijn,jn->in", preference, log_q.detach().exp())
    return (log_q.exp() * (wins - p.beta * (log_q - p.log_prior))).sum()


def filtering_update(log_q: Tensor, p: Problem) -> Tensor:
    is_accepted = p.reward >= OPTIONS["filtering"]["threshold"]
    accepted = p.log_prior.exp() * is_accepted
    return (accepted * log_q.masked_fill(~is_accepted, 0.0)).sum()


def max_at_k_update(log_q: Tensor, p: Problem) -> Tensor:
    """Mean of the largest by the distribution function of the reward."""
    k, q = OPTIONS["max-at-k"]["k"], log_q.exp()
    lower, equal = (p.reward[:, None] > p.reward), (p.reward[:, None] == p.reward)
    below, level = ((q * each).sum(1) for each in (lower, equal))  # [S, N]
    best = q / level * ((below + level) ** k - below**k)
    return (best * p.reward - p.beta * q * (log_q - p.log_prior)).sum()


def pass_at_k_update(log_q: Tensor, p: Problem) -> Tensor:
    k, threshold = OPTIONS["pass-at-k"].values()
    failure = (log_q.exp() * (p.reward < threshold)).sum(0)
    penalty = (log_q.exp() * (log_q - p.log_prior)).sum(0)
    return (1 - failure**k - p.beta * penalty).sum()


UPDATES: dict[str, Update] = {
    "posterior": regularised(lambda p: p.reward),
    "grpo": grpo_update,
    "grpo-k3": grpo_k3_update,
    "grpo-token-k3": token_k3_update(of_reward),
    "gdpo": token_k3_update(of_rewards),
    "grpo-mean-k3": token_k3_update(of_reward, mean=True),
    "token-forward-kl": token_k3_update(centred),
    "grpo-token-kl": token_kl_update(of_reward),
    "token-reverse-kl": token_kl_update(centred),
    "forward-kl": forward_kl_update,
    "chi-squared": chi_squared_update,
    "mean-mirror-descent": mean_mirror_descent_update,
    "squared-residual": squared_residual_update,
    "length-normalised": length_normalised_update,
    "mode-anchored": regularised(anchored_reward),
    "filtering": filtering_update,
    "max-at-k": max_at_k_update,
    "pass-at-k": pass_at_k_update,
    "quantile": regularised(quantiles),
    "nash": nash_update,
}
