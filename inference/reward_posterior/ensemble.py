"""An ensemble: S maxima a posteriori, each of resampled data and around another prior draw.

    D_s  a bootstrap resample of the comparisons,   m_s ~ p(w)
    w_s = argmax log p(D_s | w) + log N(w; m_s, prior_scale^2)

Osband et al. 2018, arXiv 1806.03335. The bootstrap alone (Coste et al. 2023, arXiv 2310.02743) has
no spread in directions without data. For a linear model whose Gaussian noise is redrawn in place of
the bootstrap, the members are exact posterior draws. Here they are approximate, and too close
together where all resamples are alike, such as with ties alone.
"""

from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.reward_posterior.maximum import check_inference, maximum_a_posteriori
from model.common.checks import instance
from model.preferences import BradleyTerry, Observations


def ensemble(
    model: BradleyTerry,
    comparisons: Observations,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draw `[S, P]` near the posterior, one optimisation each: for a head with many maxima.

    Each member has a start of its own, a draw of its moved prior.

    Args:
        model: A `BradleyTerry`, whose prior can be moved.
        comparisons, num_samples, seed, progress: See `RewardInference`.

    Raises:
        NotMaximisedError: If a member does not converge.
    """
    check_inference(model, comparisons, progress, num_samples=num_samples)
    instance("model", model, BradleyTerry, why="its prior is moved from member to member")
    center = model.prior_mean
    if center is None:
        center = comparisons.like.new_zeros(model.head.num_weights)
    count, members = len(comparisons), []
    bar = tqdm(range(num_samples), desc="ensemble", unit="member", disable=not progress)
    with random_state.isolated(seed, comparisons.like.device):
        for member in bar:
            moved = replace(model, prior_mean=center + model.prior_scale * torch.randn_like(center))
            resampled = comparisons.select(torch.randint(count, (count,)))
            members.append(maximum_a_posteriori(moved, resampled, seed=seed + member)[0])
    return torch.stack(members)
