"""An ensemble: S maxima a posteriori, each of other data and around another prior draw (Osband et al. 2018, arXiv 1806.03335).

    D_s  a bootstrap resample of the comparisons,   m_s ~ p(w),   w_s = argmax log p(D_s | w) + log N(w; m_s, prior_scale^2)

The bootstrap alone, as in Coste et al. 2023 (arXiv 2310.02743), has no spread in directions of which the data say nothing,
where all members would be at the prior's mean; the randomised prior gives them the prior's own spread there. For a linear model
with Gaussian noise, and that noise redrawn in place of the bootstrap, the members are exact posterior draws. Here they are near
it, but too close together where resamples are all alike: if every comparison is a tie, say.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.reward_posterior.maximum import check_counts, check_inference, maximum_a_posteriori
from model.common.checks import instance
from model.preferences import BradleyTerry, Comparisons


def ensemble(
    model: BradleyTerry,
    comparisons: Comparisons,
    *,
    num_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Draws near the posterior, each by an optimisation of its own: good for a head that has many maxima.

    Args:
        model: a `BradleyTerry`, whose prior can be moved.
        comparisons: with their outcomes.
        num_samples: S.
        seed: of resamples, prior draws and starting points.
        progress: show a bar.

    Returns:
        `[S, P]`.

    Raises:
        NotMaximisedError: if a member does not converge.
        ValueError: if no draws are asked for.
    """
    check_counts(num_samples=num_samples)
    check_inference(model, comparisons)
    instance("model", model, BradleyTerry, why="its prior is moved from member to member")
    center = (
        comparisons.first.new_zeros(model.head.num_weights)
        if model.prior_mean is None
        else model.prior_mean
    )
    members = []
    with random_state.isolated(seed):
        for member in tqdm(
            range(num_samples), desc="ensemble", unit="member", disable=not progress
        ):
            moved = replace(model, prior_mean=center + model.prior_scale * torch.randn_like(center))
            resampled = comparisons.select(
                torch.randint(len(comparisons.first), (len(comparisons.first),))
            )
            members.append(maximum_a_posteriori(moved, resampled, seed=seed + member)[0])
    return torch.stack(members)
