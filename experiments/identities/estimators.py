"""Estimators: of a KL, of the gradient of KL(p* || q), and the Renyi bound on log Z."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, over_cases, paired
from experiments.identities.residuals import pairs
from experiments.identities.world import World, cases, mean_gradient, scores
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference import random_state
from inference.kl_estimators import KL_ESTIMATORS

ESTIMATES = 2000
"""Number of estimates behind a mean."""
ORDERS = (0.0, 0.25, 0.5, 0.75)
"""Orders of the Renyi bound below 1, where the bound is the ELBO."""


def kl_estimators_check(_: World) -> list[Finding]:
    """k1, k2 and k3 for N(0, 1) and N(mu, 1), by quadrature (Schulman 2020).

    Bias and standard deviation over the KL. Published: k2 and k3 have a deviation of 1.42 at
    mu = 0.1, where k1 has 20.
    """
    near, far = moments(0.1), moments(3.0)
    biases = [near["k1"][0], near["k3"][0], moments(1.0)["k3"][0]]
    deviations = ", ".join(f"{name} {near[name][1]:.3f}" for name in near)
    published = {"k1": 20.0, "k2": 1.42, "k3": 1.42}
    held = all(abs(near[name][1] / value - 1) < 0.01 for name, value in published.items())
    bias = "mu 0.1 and 1, bias of k2 over the KL"
    return [
        exact("bias of k1 at mu 0.1, of k3 at mu 0.1 and 1, over the KL", *biases, limit=1e-8),
        Finding(f"mu 0.1, deviation over the KL: {deviations}", held),
        within(bias, near["k2"][0], moments(1.0)["k2"][0], above=0.0, below=0.26),
        within(
            "mu 3, deviation of k3 over the deviation of k1", far["k3"][1] / far["k1"][1], above=1.0
        ),
    ]


def moments(mu: float) -> dict[str, tuple[float, float]]:
    """Bias and deviation of each estimator, over KL(N(0, 1) || N(mu, 1)) = mu^2/2."""
    x = torch.linspace(-12, 16, 200_001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2)
    weight = weight / weight.sum()
    log_ratio = ((x - mu).square() - x.square()) / 2
    truth = mu**2 / 2
    numbers = {}
    for name in ("k1", "k2", "k3"):
        values = KL_ESTIMATORS[name](log_ratio)
        mean = (weight * values).sum()
        deviation = (weight * (values - mean).square()).sum().sqrt()
        numbers[name] = ((mean.item() - truth) / truth, deviation.item() / truth)
    return numbers


def rao_blackwell(world: World) -> list[Finding]:
    """KL of the next token, summed over positions of a draw (arXiv 2504.10637)."""
    support = world.truth.support
    with torch.no_grad():
        q, p0 = world.guide.distribution(world.prompts), world.model.prior(world.prompts)
        log_q, log_p = (each.next_token_logits(support).log_softmax(-1) for each in (q, p0))
    exact_steps = (log_q.exp() * (log_q - log_p)).sum((-2, -1))[:, 0]
    plain = world.log_guide - world.log_prior
    prob = world.log_guide.exp()
    truth = (prob * plain).sum()

    def deviation(values: Tensor) -> float:
        return (prob * (values - truth).square()).sum().sqrt().item()

    return [
        exact("mean of the estimate - KL(q || p0), nats", (prob * exact_steps).sum() - truth),
        within("smallest estimate, nats", exact_steps.min(), above=-1e-12),
        within(
            "deviation over that of log q/p0", deviation(exact_steps) / deviation(plain), below=1.0
        ),
    ]


def wake(_: World) -> list[Finding]:
    """Self-normalised gradient of KL(p* || q): bias against K (arXiv 1406.2751)."""
    with random_state.isolated(0):
        few, many = torch.tensor([[_bias(case, size) for size in (4, 64)] for case in cases()]).T
    return [
        over_cases("bias along the gradient over its size, 4 draws", few, below=0.0),
        paired("bias of 64 draws less a quarter of the bias of 4", many, few / 4, above=0.0),
    ]


def _bias(world: World, size: int) -> float:
    """Bias of the estimate of a number of draws along the gradient, over the gradient's size."""
    truth = mean_gradient(world.log_posterior, world.log_guide, torch.ones_like(world.log_prior))
    along = scores(world.log_guide) @ truth / truth.square().sum()  # 1 in the mean under p*
    draws = world.draws(world.log_guide, size, ESTIMATES)
    log_weight = (world.log_joint - world.log_guide)[draws]
    return ((log_weight.softmax(0) * along[draws]).sum(0).mean() - 1).item()


def brain(world: World) -> list[Finding]:
    """Weights of a pair of draws less their mean, in the place of weights (BRAIn, 2402.02479)."""

    def moments(log_guide: Tensor, baseline: float) -> tuple[Tensor, float]:
        """Mean gradient, and noise, of a pair of draws."""
        prob, score = log_guide.exp(), scores(log_guide)
        weight = pairs(world.log_joint - log_guide).softmax(0) - baseline
        both = prob[:, None] * prob
        estimate = weight[0, :, :, None] * score[:, None] + weight[1, :, :, None] * score
        mean = torch.einsum("ij,ijs->s", both, estimate)
        second = (both * estimate.square().sum(-1)).sum()
        return mean, (second - mean.square().sum()).item()

    (plain, noisy), (mean, quiet) = (moments(world.log_guide, share) for share in (0.0, 0.5))
    at = [moments(world.log_posterior, share)[1] for share in (0.0, 0.5)]
    return [
        exact("mean gradient of pairs with - without the baseline", relative_error(mean, plain)),
        exact("noise with the baseline at q = p*", at[1]),
        within("noise without the baseline at q = p*", at[0], above=0.01),
        within("noise with over without, away from p*", quiet / noisy, below=1.0),
    ]


def renyi(world: World) -> list[Finding]:
    """log E_q[w^(1 - a)]/(1 - a), from log Z at a = 0 to the ELBO at a = 1 (arXiv 1602.02311)."""
    log_weight = world.log_joint - world.log_guide
    bounds = [
        ((world.log_guide + (1 - alpha) * log_weight).logsumexp(0) / (1 - alpha)).item()
        for alpha in ORDERS
    ]
    bounds.append((world.log_guide.exp() * log_weight).sum().item())
    numbers = ", ".join(f"{value:.3f}" for value in bounds)
    orders = ", ".join(f"{alpha:g}" for alpha in (*ORDERS, 1))
    return [
        exact("bound at a = 0 - log Z, nats", bounds[0] - world.log_z),
        Finding(f"bounds at a = {orders}, nats: {numbers}", bounds == sorted(bounds, reverse=True)),
    ]
