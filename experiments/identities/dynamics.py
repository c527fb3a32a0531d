"""Dynamics of training: the change of the entropy, and data weighed by their probabilities."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, over_cases
from experiments.identities.off_policy import ascended
from experiments.identities.world import World, cases, gradient_at, kl, mean_gradient
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference import Estimate
from inference.roots import root

GAMMA = 0.1
"""LUFFY's gamma."""


def entropy_change(world: World) -> list[Finding]:
    """Change of the entropy by a small step, -Cov(log q, change of the logits) (2505.22617)."""
    betas = torch.linspace(0.05, 2.0, 100, dtype=torch.float64)
    errors, rising, unexplained = [], [], []
    for case in (world, *cases()):
        log_guide, prob = case.log_guide, case.log_guide.exp()
        advantage = case.reward - prob @ case.reward
        for step in (advantage, prob * advantage):  # natural gradient, gradient
            size = torch.zeros((), dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(_entropy((log_guide + size * step).log_softmax(0)), size)
            covariance = prob @ (log_guide * step) - (prob @ log_guide) * (prob @ step)
            errors.append(slope + covariance)
            rising.append(float(covariance < 0))
        path = case.posterior_at(betas[:, None])
        points = torch.stack([path.exp() @ case.reward, _entropy(path).exp()])
        unexplained.append(1 - torch.corrcoef(points)[0, 1].square().item())
    shares = torch.tensor(rising[2:], dtype=torch.float64).view(-1, 2).T[..., None]
    both = (
        f"share of {len(cases())} cases in which the covariance is negative and the entropy "
        "rises, natural gradient and gradient"
    )
    curved = "variance of E[r] that a line in exp(entropy) leaves, on the posteriors of all beta"
    return [
        exact("slope of the entropy + covariance, natural gradient and gradient", *errors),
        within(both, *map(Estimate.of_share, shares), above=0.25, below=0.75),
        over_cases(curved, unexplained[1:], above=0.05),
    ]


def _entropy(log_prob: Tensor) -> Tensor:
    """Entropy of distributions in the last dimension, nats."""
    return -(log_prob.exp() * log_prob).sum(-1)


def dft_check(world: World) -> list[Finding]:
    """Log-likelihood of data, each scaled by its own probability (DFT, arXiv 2508.05629).

    Each response is one token here. The data are draws of the prior, the training begins away.
    """
    log_data, log_guide = world.log_prior, world.log_guide
    scaled = log_data.exp() * log_guide.log_softmax(0).exp()
    descent = gradient_at(log_guide, lambda log_q: (scaled * log_q).sum())
    of_reward = mean_gradient(log_guide, log_guide, log_data.exp())
    dft, plain = (
        ascended(world, coefficient, steps=20_000, size=5.0, start=log_guide)
        for coefficient in (torch.exp, torch.ones_like)
    )
    mode = log_data.argmax()
    apart, subject = kl(log_data, log_guide), "KL(p_data || q) at the end, nats"
    unscaled = f"without the scale, {subject} (at the start: {apart:.2g})"
    at_mode = f"at the end, probability of the most likely of the data ({log_data[mode].exp():.2g})"
    of_descent = "descent of the loss - policy gradient of the reward p_data"
    return [
        exact(of_descent, relative_error(descent, of_reward)),
        exact(unscaled, kl(log_data, plain), limit=1e-5),
        within(at_mode, dft[mode].exp(), above=0.99),
    ]


def luffy(world: World) -> list[Finding]:
    """Demonstrations with the weight f(q) = q/(q + gamma) of a token (LUFFY, arXiv 2504.14945).

    The gradient of f(q) is gamma q/(q + gamma)^2 grad log q, that of q without shaping q grad log q
    as in DFT. Each response is one token here, the demonstrations are draws p of the prior, all of
    one advantage: the ascent of E_p[f(q)] ends at (sqrt(c p) - gamma)+, for the c of sum 1.
    """
    demonstrations = world.log_prior.exp()

    def weight(log_q: Tensor) -> Tensor:
        return GAMMA * log_q.exp() / (log_q.exp() + GAMMA).square()

    def limit(level: float) -> Tensor:
        return ((level * demonstrations).sqrt() - GAMMA).clamp(min=0)

    end = limit(root(lambda level: limit(level).sum().item() - 1, 1e-6, 1e6))
    shaped, plain = (
        ascended(world, coefficient, steps=60_000, size=20.0, start=world.log_guide).exp()
        for coefficient in (weight, torch.exp)
    )
    rare = torch.tensor(0.01, dtype=torch.float64)
    rare_weight = f"weight of the gradient at q = {rare:g}, shaped over not shaped"
    largest = f"shaped, largest q(x) at the end (of the demonstrations: {demonstrations.max():.2g})"
    limit_error = "shaped, total variation of the end from (sqrt(c p) - gamma)+"
    given_up = "shaped, share of the demonstrations given up, to a hundredth of their probability"
    return [
        within(rare_weight, weight(rare.log()) / rare, above=1.0),
        within("not shaped, largest q(x) at the end", plain.max(), above=0.99),
        within(largest, shaped.max(), below=0.5),
        exact(limit_error, 0.5 * (shaped - end).abs().sum(), limit=1e-3),
        within(given_up, demonstrations[shaped < 0.01 * demonstrations].sum(), above=0.1),
    ]
