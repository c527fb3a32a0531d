"""Dynamics of training: the change of the entropy, and fine-tuning scaled by probabilities."""

import torch
from torch import Tensor

from experiments.identities.findings import exact
from experiments.identities.off_policy import ascended
from experiments.identities.world import World, kl, mean_gradient
from experiments.shared.claims import Finding
from inference.diagnostics.gradients import relative_error


def entropy_change(world: World) -> list[Finding]:
    """Change of the entropy by a small step, -Cov(log q, change of the logits) (2505.22617)."""
    log_guide, errors, signs = world.log_guide, [], []
    prob = log_guide.exp()
    advantage = world.reward - prob @ world.reward
    for step in (advantage, prob * advantage):  # natural gradient, gradient
        size = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(_entropy((log_guide + size * step).log_softmax(0)), size)
        covariance = prob @ (log_guide * step) - (prob @ log_guide) * (prob @ step)
        errors.append((slope + covariance).item())
        signs.append(covariance.item())
    rare = prob.argmin()
    rarely = torch.zeros_like(prob).index_fill(0, rare, 1.0)
    of_rare = prob @ (log_guide * rarely) - (prob @ log_guide) * (prob @ rarely)
    betas = torch.linspace(0.05, 2.0, 100, dtype=torch.float64)
    path = (world.log_prior + world.reward / betas[:, None]).log_softmax(1)
    points = torch.stack([path.exp() @ world.reward, _entropy(path).exp()])
    unexplained = 1 - torch.corrcoef(points)[0, 1].square().item()
    return [
        exact("slope of the entropy + covariance, natural gradient and gradient", *errors),
        Finding.of_limits("covariance if the rarest response gains", [of_rare.item()], below=0.0),
        Finding.of_limits(
            "covariance by rewards, natural gradient and gradient, nats", signs, below=0.0
        ),
        Finding.of_limits(
            "variance of E[r] that a line in exp(entropy) leaves, on the posteriors of all beta",
            [unexplained],
            above=0.01,
        ),
    ]


def _entropy(log_prob: Tensor) -> Tensor:
    """Entropy of distributions in the last dimension, nats."""
    return -(log_prob.exp() * log_prob).sum(-1)


def dynamic_fine_tuning(world: World) -> list[Finding]:
    """Log-likelihood of data, each scaled by its own probability (DFT, arXiv 2508.05629).

    Each response is one token here. The data are draws of the prior.
    """
    log_data, log_guide = world.log_prior, world.log_guide
    of_dft = mean_gradient(log_data, log_guide, log_guide.exp())
    of_reward = mean_gradient(log_guide, log_guide, log_data.exp())
    dft, plain = (
        ascended(world, coefficient, steps=20_000, size=5.0)
        for coefficient in (torch.exp, torch.ones_like)
    )
    mode = log_data.argmax()
    return [
        exact(
            "mean gradient - policy gradient of the reward p_data",
            relative_error(of_dft, of_reward),
        ),
        exact("without the scale, KL(p_data || q) at the end, nats", kl(log_data, plain)),
        Finding.of_limits(
            f"at the end, probability of the most likely of the data ({log_data[mode].exp():.2g})",
            [dft[mode].exp().item()],
            above=0.99,
        ),
    ]
