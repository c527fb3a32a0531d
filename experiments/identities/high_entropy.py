"""Advantages at the tokens of the highest entropy alone (arXiv 2506.01939)."""

import torch
from torch import Tensor

from experiments.identities.findings import DISTINCT, exact, over_cases, paired
from experiments.identities.gradients import token_scores
from experiments.identities.prefixes import given, next_token, token_by_token
from experiments.identities.world import BETA, World, cases
from experiments.shared.claims import Finding
from inference.targets.fixed_points import TARGETS

FIFTH = 0.2
"""Share of the drawn tokens, the published one; with all tokens after the prefix of the last."""
ROUNDS = 5
"""Rounds of training. With all tokens, one round for each token of a response is enough."""


def high_entropy(_: World) -> list[Finding]:
    """Gradients, fixed points, and training with a fifth of the tokens.

    A round of training puts q at the optimum of each used prefix, given the rest of q.
    """
    worlds = cases(priors=True)
    rows = torch.tensor([[*_slope(w), *_at_target(w)] for w in worlds], dtype=torch.float64)
    tokens, slope, still, moved = rows.T
    trained = [[w.gap(_trained(w, share)) for w in worlds] for share in (1.0, FIFTH)]
    of_slope = "share of the slope of the ELBO"
    return [
        exact("gradient at Dr. GRPO's target, all tokens", still),
        over_cases("gradient at Dr. GRPO's target, a fifth of them", moved, above=DISTINCT),
        exact("KL(q || p*) after training, all tokens", torch.tensor(trained[0])),
        over_cases("KL(q || p*) after training, a fifth of them", trained[1], above=DISTINCT),
        paired(f"{of_slope} less share of the tokens", slope, tokens, above=0.0),
        over_cases(f"{of_slope}, a fifth of the tokens", slope.tolist(), below=0.8),
    ]


def _slope(world: World) -> list[float]:
    """Share of the used tokens, and of the slope of the ELBO, whose KL is in the reward."""
    log_weight = world.log_joint - world.log_guide
    advantage = log_weight - world.log_guide.exp() @ log_weight
    is_token, is_used = _masks(world, world.log_guide, FIFTH)
    whole, part = (_step(world, world.log_guide, m * advantage) for m in (is_token, is_used))
    of_prob = world.log_guide.exp() * is_token
    of_tokens = (of_prob * is_used).sum() / of_prob.sum()
    return [of_tokens.item(), (part @ whole / (whole @ whole)).item()]


def _at_target(world: World) -> list[float]:
    """Norms of the gradient at Dr. GRPO's target, with advantages at all and at a fifth of tokens.

    k3 as a loss has the gradient of 1 - p0/q at each token.
    """
    log_q = TARGETS["token-forward-kl"](world.problem)[:, 0]
    advantage = (world.reward - log_q.exp() @ world.reward) / BETA
    places = range(world.truth.support.shape[-1])
    log_ratio = torch.stack(
        [next_token(world, world.log_prior, t) - next_token(world, log_q, t) for t in places]
    )
    is_token, is_used = _masks(world, log_q, FIFTH)
    penalty = is_token * (1 - log_ratio.exp())
    return [
        _step(world, log_q, mask * advantage - penalty).norm().item()
        for mask in (is_token, is_used)
    ]


def _trained(world: World, share: float) -> Tensor:
    """log q after training with a share of the tokens, `[S]`, nats."""
    log_q = world.log_guide
    for _ in range(ROUNDS):
        log_q = _improved(world, log_q, _masks(world, log_q, share)[1])
    return log_q


def _improved(world: World, log_q: Tensor, is_used: Tensor) -> Tensor:
    """log q with log q_t + E_q[log w | x_<=t], normalised, at the used tokens, `[S]`, nats."""
    log_weight = world.log_joint - log_q

    def score(t: int) -> Tensor:
        gain = given(world, log_q, t + 1) @ log_weight
        return next_token(world, log_q, t) + gain.masked_fill(~is_used[t], 0.0)

    return token_by_token(world, score)


def _step(world: World, log_q: Tensor, coefficient: Tensor) -> Tensor:
    """E_q[sum_t c_t grad log q_t] by the logits of q, `[S]`, for c `[T, S]`."""
    score = token_scores(world, log_q)[: len(coefficient)]
    return torch.einsum("ts,tsl->l", log_q.exp() * coefficient, score)


def _masks(world: World, log_q: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Masks of the tokens, and of the share of these of the highest entropy, `[T, S]`."""
    places = range(world.truth.support.shape[-1])
    entropy = torch.stack([-given(world, log_q, t) @ next_token(world, log_q, t) for t in places])
    is_token = torch.tensor(places)[:, None] < world.length
    mass = (log_q.exp() * is_token).flatten()
    order = entropy.flatten().argsort(descending=True)
    below = mass[order].cumsum(0) < (share - 1e-9) * mass.sum()
    least = entropy.flatten()[order[int(below.sum())]]
    return is_token, is_token & (entropy >= least - 1e-9)
