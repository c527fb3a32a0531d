"""Rewards of 0 and 1: training for pass@k in place of one draw, and on failures alone."""

from dataclasses import replace
from math import comb

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from experiments.identities.findings import exact, spread
from experiments.identities.off_policy import ascended
from experiments.identities.targets import THRESHOLD
from experiments.identities.world import World, mean_gradient, noise
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import relative_error
from inference.diagnostics.pass_at_k import exact_pass_at_k, pass_at_k
from inference.targets.fixed_points import TARGETS, Problem

K, DRAWS = 4, 8
"""Numbers of draws behind pass@k, and behind an estimate of its gradient."""
BETA = 1.0
"""Rate of successes per nat."""
EASY, HARD = 0.2, 0.8
"""Rewards from which a response is a success, for an easy prompt and for a hard one."""
RARE, FREQUENT = 0.01, 0.3
"""Shares of successes under the prior of a hard prompt and of an easy one."""


def pass_at_k_check(world: World) -> list[Finding]:
    """Rewards whose policy gradient is that of pass@k, and its target (arXiv 2505.15201).

    A success has the reward k/n, a failure k/n times the estimate of pass@(k - 1) from the other
    n - 1 draws.
    """
    success = (world.reward >= THRESHOLD).double()
    reward = K * (success + (1 - success) * _pass_of_others(world, success))
    mean = mean_gradient(world.log_guide, world.log_guide, reward)
    problem = replace(world.problem, beta=BETA)
    log_k = TARGETS["pass-at-k"](problem, k=K, threshold=THRESHOLD)
    rare_one, rare_k = (_trained(RARE, k) for k in (1, K))
    one, of_k = (1 - (1 - _trained(FREQUENT, k)) ** K for k in (1, K))
    ratio = (log_k - problem.log_prior)[:, 0]
    spreads = [spread(ratio[success == label]) for label in (0, 1)]
    by_pass = f"trained for pass@4, successes from {RARE:g} (for one draw: {rare_one:.2g})"
    by_one = f"trained for one draw, successes from {FREQUENT:g}"
    return [
        exact("mean gradient - grad pass@4", relative_error(mean, _gradient(world, success))),
        exact("log q/p0 at the target, spread among successes and among failures", *spreads),
        within(by_pass, rare_k, above=rare_one),
        within(f"{by_one}, pass@4 (for pass@4: {of_k:.3g})", one, above=of_k),
    ]


def _trained(share: float, k: int) -> float:
    """Share of successes at the target of pass@k, for a share of successes under the prior."""
    log_prior = torch.tensor([[1 - share], [share]]).double().log()
    problem = Problem(log_prior, torch.eye(2)[:, 1:], BETA)
    return TARGETS["pass-at-k"](problem, k=k, threshold=THRESHOLD)[1].exp().item()


def negative(world: World) -> list[Finding]:
    """Failures alone, of reward -1, or successes alone, of reward 1 (NSR, PSR; arXiv 2506.01347).

    The two rewards differ by 1, a baseline: on draws of the guide both have the same mean
    gradient, and the noise is that of the rarer or of the more frequent outcome.
    """
    log_guide, prob = world.log_guide, world.log_guide.exp()
    success = (world.reward >= THRESHOLD).double()
    good = mean_gradient(log_guide, log_guide, success)
    bad = mean_gradient(log_guide, log_guide, success - 1)
    spread_of, among = [], success.bool()
    for step in (bad, bad / prob):  # gradient, natural gradient up to a constant
        size = torch.zeros((), dtype=torch.float64, requires_grad=True)
        log_q = (log_guide + size * step)[among].log_softmax(0)
        (slope,) = torch.autograd.grad(-(log_q.exp() * log_q).sum(), size)
        spread_of.append(slope.item())
    noises = []
    for threshold in (EASY, HARD):
        is_good = (world.reward >= threshold).double()
        noises.append(noise(log_guide, is_good - 1) / noise(log_guide, is_good))
    of_bad, of_good = (
        ascended(world, coefficient, steps=20_000, size=4.0).exp()
        for coefficient in (lambda _: success - 1, lambda _: success)
    )
    target = TARGETS["filtering"](world.problem, threshold=THRESHOLD)[:, 0].exp()
    distance = 0.5 * (of_good - target).abs().sum().item()
    step = jacobian(lambda logits: -logits.log_softmax(0), log_guide)  # [S, S], of each failure
    to_others = (step - prob).fill_diagonal_(0.0).abs().max().item()
    subject = "noise of failures alone over noise of successes alone, success"
    failures_alone = "fixed draws of the prior, failures alone, largest probability at the end"
    successes_alone = (
        "fixed draws of the prior, successes alone, total variation from the prior given success"
    )
    return [
        exact("step by one failure, change of another logit - its probability", to_others),
        exact("mean gradient of failures alone - of successes alone", relative_error(bad, good)),
        within(
            "slope of the entropy of the successes along this gradient", spread_of[0], below=0.0
        ),
        exact("slope of the same along the natural gradient", spread_of[1]),
        within(f"{subject} from {EASY:g}", noises[0], below=1.0),
        within(f"{subject} from {HARD:g}", noises[1], above=1.0),
        within(failures_alone, of_bad.max(), above=0.9),
        within(successes_alone, distance, below=0.02),
    ]


def _pass_of_others(world: World, success: Tensor) -> float:
    """Mean of the estimate of pass@(k - 1) from n - 1 draws of the guide."""
    rate, total = (world.log_guide.exp() @ success).item(), 0.0
    for c in range(DRAWS):
        prob = comb(DRAWS - 1, c) * rate**c * (1 - rate) ** (DRAWS - 1 - c)
        others = (torch.arange(DRAWS - 1) < c).double()[:, None]
        total += prob * pass_at_k(others, K - 1).value
    return total


def _gradient(world: World, success: Tensor) -> Tensor:
    """Gradient of pass@k by the logits of the guide, `[S]`, by autograd."""
    logits = world.log_guide.clone().requires_grad_()
    value = exact_pass_at_k(success[:, None], logits.softmax(0)[:, None], K).sum()
    return torch.autograd.grad(value, logits)[0]
