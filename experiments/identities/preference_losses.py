"""Losses of pairs of 2024: a bonus (XPO), anchors (APO), pins (Cal-DPO), a discovered loss."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from experiments.identities.findings import DISTINCT, exact, most_less, over_cases, paired
from experiments.identities.preferences import (
    FEW,
    judged,
    less_prior,
    loss_of,
    optimum,
    preferred,
    soft_filter,
    won,
)
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS, kto
from inference.direct_preferences.likelihoods import discovered as score
from inference.direct_preferences.likelihoods import pinned as squares
from inference.targets.fixed_points import TARGETS

ALPHA = 1e-3
"""Weight of XPO's bonus: its effect is seen here."""


def xpo(world: World) -> list[Finding]:
    """DPO with alpha E_p0[log q] added to the loss (XPO, arXiv 2405.21046), pairs without end.

    For the implicit reward s = beta log q/p0, up to a constant, -E_p0[log q/p0] is log E_p0 exp((s
    - E_p0 s)/beta): the bonus is log Z of the centred implicit reward. The loss is that of a pair.
    Where the logit of one response x rises without limit, the loss has the slope
    2 beta P(y beats x) p0(x) - alpha (1 - p0(x)) in the logit, with y ~ p0 another response:
    negative for a response that pairs rarely contain. The paper assumes bounded log-ratios.
    """
    wins, beta = judged(world)
    prior = world.log_prior.exp()
    weight = 2 * won(world, wins)  # of a pair in either order: the sum is 1

    def loss(alpha: float, log_guide: Tensor) -> Tensor:
        of_pairs = loss_of(LIKELIHOODS["dpo"], weight, beta, world.log_ratio, log_guide)
        return of_pairs + alpha * (prior @ log_guide)

    log_guide = minimum(partial(loss, ALPHA), world)
    log_dpo = minimum(partial(loss, 0.0), world)
    log_z, rewards = [], []
    for log in (log_dpo, log_guide):
        score = beta * world.log_ratio(log)
        log_z.append((world.log_prior + (score - prior @ score) / beta).logsumexp(0).item())
        rewards.append(world.mean_reward(log))
    betas = torch.linspace(0.2, 0.3, 401, dtype=torch.float64)
    nearest, distance = world.nearest_posterior(log_guide, betas)
    of_log_z = (
        f"alpha {ALPHA:g}, from p0, log Z of the centred implicit reward at the end (of DPO: "
        f"{log_z[0]:.4g})"
    )
    of_reward = f"alpha {ALPHA:g}, from p0, E[r] at the end (of DPO: {rewards[0]:.4g})"
    of_nearest = (
        f"alpha {ALPHA:g}, KL(end || posterior of beta {nearest:.4g}), nats (beta is "
        f"{world.model.beta:g})"
    )
    of_identity = "-E_p0[log q/p0] - log Z of the centred implicit reward, at the end"
    return [
        exact(of_identity, log_z[1] + prior @ world.log_ratio(log_guide)),
        within(of_log_z, log_z[1], above=log_z[0]),
        within(of_reward, rewards[1], above=rewards[0]),
        within(of_nearest, distance, below=1e-4),
        *_far_out(world, partial(loss, ALPHA)),
    ]


def _far_out(world: World, loss: Callable[[Tensor], Tensor]) -> list[Finding]:
    """Slope of XPO's loss where the logit of a response that pairs rarely contain is large."""
    wins, beta = judged(world)
    prior = world.log_prior.exp()
    lost = (wins - 0.5 * torch.eye(len(wins))).T @ prior  # to another response
    rarest = int((lost * prior / (1 - prior)).argmin())
    logit = one_hot(torch.tensor(rarest), len(prior))
    near, far = (loss((world.log_prior + nats * logit).log_softmax(0)).item() for nats in (40, 50))
    slope, share = (far - near) / 10, prior[rarest]
    far_slope = (
        f"alpha {ALPHA:g}, slope of the loss far out in the logit of a response of p0 {share:.1g}"
    )
    of_formula = "this slope - 2 beta P(y beats x) p0(x) + alpha (1 - p0(x))"
    return [
        within(far_slope, slope, below=0.0),
        exact(of_formula, slope - 2 * beta * lost[rarest] * share + ALPHA * (1 - share)),
    ]


def apo(world: World) -> list[Finding]:
    """APO-zero and APO-down of pairs of prior draws without end (arXiv 2408.06266)."""
    wins, beta = judged(world)
    zero = optimum(world, kto(reference=0.0), wins, beta)
    both = _least(world, lambda c, r: 1 - c.sigmoid() + r.sigmoid())
    down = optimum(world, LIKELIHOODS["apo-down"], wins, beta)
    prior = world.gap(world.log_prior)
    optima = (soft_filter(case, 0.0) for case in cases(priors=True))
    apo_down = f"APO-down, KL(optimum || p*), nats (the prior's: {prior:.2g})"
    return [
        exact("APO-zero, KL(optimum || optimum of KTO at z 0), nats", kl(both, zero), limit=1e-5),
        less_prior("APO-zero, optimum", optima, below=0.0),
        within("APO-zero, KL(optimum || p*), nats", world.gap(both), above=DISTINCT),
        within(apo_down, world.gap(down), above=prior),
    ]


def cal_dpo(world: World) -> list[Finding]:
    """Squares that pin log q/p0 of a pair to 1/(2 beta), -1/(2 beta) (Cal-DPO, arXiv 2412.14516).

    The squares are those of SPPO. The authors' code adds
    them to -log sigmoid of the difference of log q/p0, without beta; here
    beta is 1. With a = P(x beats y), y ~ p0, the squares alone have the minimum of E_p0[(log q/p0 -
    (a - 1/2)/beta)^2]: a squared residual of the reward a, with its mean 1/2 for log Z.
    """
    wins, beta = judged(world)
    share = wins @ world.log_prior.exp()
    of_share = replace(world.problem, reward=share[:, None], beta=beta)
    alone, step = (
        optimum(world, LIKELIHOODS["sppo"], wins, beta),
        TARGETS["mean-mirror-descent"](of_share)[:, 0],
    )
    few = cases(FEW, priors=True)
    ends, numbers, to_ipo = [], [], []
    for case in few:
        wins, beta = judged(case)
        ends.append(_least(case, lambda c, r: -squares(c, r, 1.0) - logsigmoid(c - r)))
        chosen = preferred(case, wins)
        ratios = [case.log_ratio(log) for log in (ends[-1], case.log_posterior)]
        rarer = [(chosen @ (ratio < 0).double()).item() for ratio in ratios]
        numbers.append([*rarer, (chosen @ ratios[0]).item()])
        ipo = (case.log_prior + wins @ case.log_prior.exp() / beta).log_softmax(0)
        to_ipo.append(kl(ends[-1], ipo))
    of_both, of_dpo, gain = torch.tensor(numbers).T
    gaps = [case.gap(log) for case, log in zip(few, ends, strict=True)]
    return [
        paired("Cal-DPO less DPO, preferred that become rarer, share", of_both, of_dpo, below=0.0),
        over_cases("mean log q/p0 of the preferred", gain.tolist(), above=0.0),
        exact(
            "squares alone, KL(optimum || step with the mean), nats", kl(alone, step), limit=1e-6
        ),
        over_cases("KL(optimum || p0 exp(P(x beats y)/beta)/Z), nats", to_ipo, below=0.01),
        less_prior("optimum", ends, below=0.0),
        over_cases("KL(optimum || p*), nats", gaps, above=0.1),
    ]


def discopop(world: World) -> list[Finding]:
    """DiscoPOP: -log sigmoid(h) below h = 0, exp(-h) above, blended (arXiv 2406.08414).

    The loss rises from log 2 to 1 where h passes 0. The descent from p0 ends before the rise.
    """
    h = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(-score(h, 1.0), h)
    of_cases = cases(FEW, priors=True)
    rewards, ends = [], []
    for case in of_cases:
        wins, beta = judged(case)
        loss = partial(loss_of, LIKELIHOODS["discopop"], won(case, wins), beta, case.log_ratio)
        starts = case.log_prior, case.log_posterior
        both = [minimum(loss, case, start=start) for start in starts]
        ends.append(both[1])
        rewards.append([case.mean_reward(log) for log in (*both, case.log_prior)])
    from_prior, from_posterior, prior = torch.tensor(rewards).T
    return [
        less_prior("from p*, end", ends, below=0.0),
        within("slope of the loss at h = 0 (of DPO: -0.5)", slope.item(), above=0.0),
        paired("from p0 less from p*, E[r] at the end", from_prior, from_posterior, below=0.0),
        most_less("from p0, E[r] at the end below the prior's", from_prior, prior, above=0.25),
    ]


def _least(world: World, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """log q at the least loss of beta log q/p0 of a chosen and a rejected response, `[S]`."""
    wins, beta = judged(world)
    weight = won(world, wins)

    def total(log_guide: Tensor) -> Tensor:
        return (weight * loss(*pairs(beta * world.log_ratio(log_guide)))).sum()

    return minimum(total, world)
