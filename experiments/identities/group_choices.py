"""Choices of GRPO's relatives over random guides and rewards: masks, and the greedy baseline."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, over_cases, paired
from experiments.identities.gradients import greedy_response, token_scores
from experiments.identities.importance_weights import ANGLE, SHARE, Draws, compared
from experiments.identities.prefixes import next_token
from experiments.identities.surrogates import clip
from experiments.identities.world import World, cases, noise
from experiments.shared.claims import Finding

LIMIT = 0.1
"""Mean of log a/q over the tokens of a response, nats, above which the mask drops a failure."""
TENTH = 0.1
"""Share of the drawn tokens that are dropped for their covariance. The paper's is 0.0002."""


def off_policy_mask(world: World) -> list[Finding]:
    """Responses with A < 0 that q has left, dropped (DeepSeek-V3.2, arXiv 2512.02556)."""

    def masked(draws: Draws) -> Tensor:
        is_near = -draws.whole / draws.world.length <= LIMIT
        return clip(draws) * (draws.is_good | is_near)

    same, at_posterior = Draws(world, world.log_prior), Draws(world, world.log_posterior)
    return [
        exact("share of dropped tokens at q = a", same.share_dropped(masked(same))),
        exact("largest gradient of a draw at q = p*", at_posterior.gradients(masked(at_posterior))),
        *compared(
            "with the mask less PPO's clip alone", masked, clip, above=[SHARE], either=[ANGLE]
        ),
    ]


def high_covariance(_: World) -> list[Finding]:
    """Tokens of the highest covariance of A and log q, dropped (arXiv 2505.22617).

    The tokens are those that KL-Cov selects; Clip-Cov draws some tokens above a covariance. Slopes
    are along the mean gradient of the reward on draws of q, with A = r - E_q[r].
    """
    slopes = torch.tensor([_slopes(world) for world in cases()], dtype=torch.float64)
    (of_all, gain), (without, gain_without) = slopes.permute(1, 2, 0)
    entropy = "slope of the entropy, without a tenth of the tokens less with all"
    reward = "share of the slope of E[r] without these tokens"
    return [
        paired(entropy, without, of_all, above=0.0),
        over_cases(reward, (gain_without / gain).tolist(), above=0.5, below=1.0),
    ]


def _slopes(world: World) -> list[tuple[float, float]]:
    """Slopes of the entropy and of E[r], with all tokens and without a tenth of these."""
    prob, places = world.log_guide.exp(), range(world.truth.support.shape[-1])
    log_token = torch.stack([next_token(world, world.log_guide, t) for t in places])
    share = prob * (torch.tensor(places)[:, None] < world.length)  # [T, S]
    share = share / share.sum()
    advantage = world.reward - prob @ world.reward
    covariance = (advantage - (share @ advantage).sum()) * (log_token - (share * log_token).sum())
    order = covariance.masked_fill(share == 0, -torch.inf).flatten().argsort(descending=True)
    is_dropped = torch.zeros(share.numel(), dtype=torch.bool)
    is_dropped[order[share.flatten()[order].cumsum(0) <= TENTH]] = True
    score = token_scores(world, world.log_guide)
    of_entropy = -prob * (world.log_guide - prob @ world.log_guide)
    slopes = []
    for weight in (share, share.masked_fill(is_dropped.view_as(share), 0.0)):
        step = torch.einsum("ts,tsl->l", weight * advantage, score)
        slopes.append(((of_entropy @ step).item(), (prob * advantage @ step).item()))
    return slopes


def greedy_baseline(_: World) -> list[Finding]:
    """Noise of one draw with log w of the greedy response as the baseline (ReMax, 2310.10505)."""
    rows = []
    for world in cases(priors=True):
        log_weight = world.log_joint - world.log_guide
        baselines = (
            log_weight[greedy_response(world, world.log_guide)],
            world.log_guide.exp() @ log_weight,
        )
        rows.append([noise(world.log_guide, log_weight - each) for each in baselines])
    greedy, mean = torch.tensor(rows, dtype=torch.float64).log().T
    return [
        paired("log of the noise, greedy less the mean as the baseline", greedy, mean, above=0.0)
    ]
