"""Squared residuals of log w: losses, their gradients, and their minima."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from experiments.identities.findings import DISTINCT, exact
from experiments.identities.prefixes import masses
from experiments.identities.world import World, kl
from experiments.shared.claims import Finding, within
from experiments.shared.gradients import loss_gradient, relative_error
from inference import LeaveOneOut_ELBO, SquaredResidual, random_state
from model.common.minimise import minimise


def pairs(values: Tensor) -> Tensor:
    """Values of both responses of all pairs, `[2, S, S]`."""
    return torch.stack(torch.meshgrid(values, values, indexing="ij"))


def vargrad(world: World) -> list[Finding]:
    """Log-variance loss and leave-one-out, on the same draws of a network (arXiv 2010.10436)."""
    errors = []
    for seed in range(4):
        both = []
        for objective in (SquaredResidual(16), LeaveOneOut_ELBO(16)):
            with random_state.isolated(seed):
                both.append(loss_gradient(objective, world.model, world.guide, world.prompts))
        errors.append(relative_error(*both))
    return [exact("gradient of half Var[log w] - leave-one-out, draw by draw", *errors)]


def off_policy_balance(world: World) -> list[Finding]:
    """Minimum of Var_a[log w] for draws from other distributions than q (arXiv 2503.18929)."""
    findings = []
    for name, log_draw in _draws(world).items():

        def loss(log_guide: Tensor, log_draw: Tensor = log_draw) -> Tensor:
            return variance(log_draw, world.log_joint - log_guide)

        log_guide = minimum(loss, world)
        subject = f"draws from the {name}, KL(q || p*) at the minimum, nats"
        findings.append(exact(subject, world.gap(log_guide), limit=1e-6))
    return findings


def _draws(world: World) -> dict[str, Tensor]:
    """Distributions other than q to draw from, `[S]`, nats."""
    return {"prior": world.log_prior, "old guide": world.log_guide, "uniform": world.uniform}


def dro(world: World) -> list[Finding]:
    """(r - V - beta log q/p0)^2 of one response a prompt, over q and V (DRO, arXiv 2405.19107).

    The minimum over V is the variance of `off_policy_balance`. With V held at the mean reward of
    the draws, which is not beta log Z, no q has the residual 0 everywhere.
    """
    draws, least_squares, fixed = _draws(world), [], []
    value = torch.tensor(world.model.beta * world.log_z, dtype=torch.float64)
    for log_draw in draws.values():
        least_squares.append(_squares(world, log_draw, world.log_posterior, value))
        logits, mean = world.log_prior.clone().requires_grad_(), log_draw.exp() @ world.reward
        minimise(partial(_squares, world, log_draw, logits, mean), [logits], max_steps=300)
        fixed.append(kl(logits.detach().log_softmax(0), world.log_posterior))
    subject = f"draws from {', '.join(draws)}"
    fixed_value = f"{subject}, V held at the mean reward, KL(q || p*) at the minimum, nats"
    return [
        exact(f"{subject}, loss at q = p* and V = beta log Z, the minimum", *least_squares),
        within(fixed_value, *fixed, above=DISTINCT),
    ]


def _squares(world: World, log_draw: Tensor, logits: Tensor, value: Tensor) -> Tensor:
    """Mean of the squared residuals with a value V, over 2 beta."""
    beta = world.model.beta
    residual = world.reward - value - beta * (logits.log_softmax(0) - world.log_prior)
    return log_draw.exp() @ residual.square() / (2 * beta)


def variance(log_draw: Tensor, values: Tensor) -> Tensor:
    """Variance of values under a distribution."""
    prob = log_draw.exp()
    return (prob * (values - (prob * values).sum()).square()).sum()


def minimum(
    loss: Callable[[Tensor], Tensor], world: World, *, start: Tensor | None = None
) -> Tensor:
    """log q at the minimum of a function of log q, `[S]`, from the prior or another start."""
    logits = (world.log_prior if start is None else start).clone().requires_grad_()
    minimise(lambda: loss(logits.log_softmax(0)), [logits], max_steps=300)
    return logits.detach().log_softmax(0)


def descend(loss: Callable[[], Tensor], parameters: Iterable[Parameter], num_steps: int) -> None:
    """Adam with a rate that falls to 0, for a loss of which part is held fixed in the gradient."""
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, num_steps)
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        schedule.step()


def sub_tb(world: World) -> list[Finding]:
    """Balance of every part of a draw (SubTB as in arXiv 2310.04363, by the authors' code).

    A draw of n tokens has n + 1 beginnings, each of which is a response if an end follows. The
    residual of the tokens from i to j is log w of the beginning of i tokens less log w of that of
    j. Their squares, summed over i < j, are (n + 1)^2 times the variance of log w.
    """
    support = world.truth.support[:, 0]
    draws = [_beginnings(world, row) for row in support]
    errors = []
    for row, ends in zip(support, draws, strict=True):
        prefixes = row.expand(len(ends), -1)
        here = [masses(world.log_guide, support, prefixes[:, :t])[0] for t in range(len(ends))]
        so_far = torch.stack(here)  # log q of the first t tokens
        log_end = world.log_guide[ends] - so_far
        residual = (world.log_joint[ends] - log_end - so_far).diff()
        path = torch.cat([residual[:0].new_zeros(1), residual.cumsum(0)])
        squares = (path[:, None] - path).square().sum() / 2
        variance = (world.log_joint - world.log_guide)[ends].var(correction=0)
        errors.append(squares - len(ends) ** 2 * variance)

    def loss(log_guide: Tensor) -> Tensor:
        log_weight = world.log_joint - log_guide
        return world.log_prior.exp() @ torch.stack([log_weight[x].var(correction=0) for x in draws])

    nats = world.gap(minimum(loss, world))
    return [
        exact("squares of all parts - (n + 1)^2 Var[log w of the beginnings]", *errors),
        exact("draws from the prior, KL(q || p*) at the minimum, nats", nats, limit=1e-6),
    ]


def _beginnings(world: World, row: Tensor) -> Tensor:
    """Numbers of the responses that end after 0 to n tokens of a response, `[n + 1]`."""
    n = int(world.model.prior.space.is_word(row).sum())
    ended = row.expand(n + 1, -1).tril(-1)  # 0 ends a response, and follows an end
    return (ended[:, None] == world.truth.support[:, 0]).all(-1).int().argmax(-1)


def rebel(world: World) -> list[Finding]:
    """Squared residual of a pair against half the variance of two (REBEL, arXiv 2404.16767)."""
    beta, log_ratio = world.model.beta, world.log_guide - world.log_prior
    residual = beta * log_ratio - world.reward
    of_pair = pairs(residual)
    squared = (of_pair[0] - of_pair[1]).square()
    half_variance = 0.5 * pairs(world.log_joint - world.log_guide).var(0)
    error = squared - 4 * beta**2 * half_variance
    return [exact("loss of a pair - 4 beta^2 half the variance of log w", error)]


def gvpo(world: World) -> list[Finding]:
    """Rewards less implicit rewards, centred in their group (GVPO, arXiv 2504.19599)."""
    size, beta = 8, world.model.beta
    logits = world.log_guide.clone().requires_grad_()
    with random_state.isolated(0):
        group = world.draws(world.uniform, size)
    log_guide = logits.log_softmax(0)[group]
    residual = world.reward[group] - beta * (log_guide - world.log_prior[group])
    (of_paper,) = torch.autograd.grad(
        -((residual - residual.mean()).detach() * log_guide).sum(), logits, retain_graph=True
    )
    (of_variance,) = torch.autograd.grad(0.5 * (residual / beta).var(), logits)
    subject = "uniform draws, gradient - beta (K - 1) times that of half Var[log w]"
    return [exact(subject, of_paper - beta * (size - 1) * of_variance)]
