"""Resampling: K weighted particles become K that count alike.

    ancestors a_1 .. a_K with   E[#{k: a_k = j}] = K W_j

All four schemes meet that equation, which is what keeps sequential Monte Carlo unbiased; they differ in how far the counts
stray from it (Douc, Cappe and Moulines 2005, arXiv cs/0507025). Each takes the particles of every prompt by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size
from model.common.checks import function, instance, one_of

Scheme = Callable[[Tensor], Tensor]
"""Takes probabilities `[K, N]`, returns ancestors `[K, N]`, each from 0 to K - 1."""


def multinomial(probability: Tensor) -> Tensor:
    """Every ancestor drawn on its own. The noisiest, and the only one here whose ancestors are independent."""
    _check(probability)
    return torch.multinomial(probability.T, len(probability), replacement=True).T


def stratified(probability: Tensor) -> Tensor:
    """One uniform number in each of K equal strata, through the inverse of the distribution function."""
    return _invert(
        probability, torch.rand(probability.shape, dtype=torch.float64, device=probability.device)
    )


def systematic(probability: Tensor) -> Tensor:
    """As stratified, but one uniform number for all strata: counts are K W_j rounded down or up."""
    return _invert(
        probability,
        torch.rand(probability.shape[1:], dtype=torch.float64, device=probability.device),
    )


def residual(probability: Tensor) -> Tensor:
    """K W_j rounded down for certain, and independent draws from what is left over for the other places."""
    _check(probability)
    num_particles = len(probability)
    expected = num_particles * probability.double()
    certain = (expected + 1e-9).floor()  # K times 1/K may come out a hair below 1
    left = (expected - certain).clamp(min=0.0)
    left = left + (
        left.sum(0) == 0
    )  # nothing left over: no place left to fill either, but `multinomial` needs a sum
    drawn = torch.multinomial(left.T, num_particles, replacement=True)  # [N, K]
    until = certain.T.contiguous().cumsum(-1)
    place = (
        torch.arange(num_particles, dtype=until.dtype, device=until.device)
        .expand_as(until)
        .contiguous()
    )
    copied = torch.searchsorted(until, place, right=True)  # K where place is past the certain ones
    return torch.where(copied < num_particles, copied, drawn).T


def _invert(probability: Tensor, uniform: Tensor) -> Tensor:
    """The particles that the points (k + u_k) / K fall on when they are laid end to end."""
    _check(probability)
    num_particles = len(probability)
    cdf = probability.T.double().cumsum(-1)  # [N, K]
    total = cdf[:, -1:]
    point = (
        (torch.arange(num_particles, device=cdf.device)[:, None] + uniform).T
        / num_particles
        * total
    )
    # a point rounded up to the total would fall past the last particle that has any weight
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, point.contiguous(), right=True).T


def _check(probability: Tensor) -> None:
    """Refuse what is no law over the particles of each prompt: searched for the points of NaN, every place is the last."""
    if probability.dim() != 2 or not bool(
        ((probability >= 0).all(0) & (probability.sum(0) > 0)).all()
    ):
        raise ValueError(
            f"probability has shape {tuple(probability.shape)} and a column that is no law, expected [K, N], numbers of at "
            "least 0 with a positive sum over K"
        )


RESAMPLING: dict[str, Scheme] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
}


class Resampled(NamedTuple):
    """Which particle each one now continues, and what is left of the weights.

    Attributes:
        ancestors: `[K, N]`; particle k itself where its prompt was not resampled.
        log_weight: `[K, N]`, nats; 0 where resampled, since the mean weight has gone to `log_mean`.
        log_mean: `[N]`, log of the mean weight where resampled, else 0. Adds to log Z_hat.
        done: `[N]`, which prompts were resampled.
    """

    ancestors: Tensor
    log_weight: Tensor
    log_mean: Tensor
    done: Tensor


def resample_if_degenerate(
    log_weight: Tensor, scheme: Scheme, threshold: float, *, keep_first: bool = False
) -> Resampled:
    """Resample the prompts whose effective sample size is below `threshold` K, and leave the others as they are.

    Args:
        log_weight: `[K, N]`, nats, not all -inf for any prompt.
        scheme: one of `RESAMPLING`, or any function like them.
        threshold: share of K; 0 never resamples, anything above 1 always does.
        keep_first: particle 0 stays particle 0, as in conditional sequential Monte Carlo. Its law is right for `multinomial`
            alone (Andrieu, Doucet and Holenstein 2010, section 4.3).
    """
    num_particles = len(log_weight)
    done = effective_sample_size(log_weight) < threshold * num_particles
    itself = torch.arange(num_particles, device=log_weight.device)[:, None].expand_as(log_weight)
    if not bool(done.any()):
        return Resampled(itself, log_weight, torch.zeros_like(log_weight[0]), done)
    ancestors = torch.where(done, _chosen(scheme, log_weight.softmax(0)), itself)
    if keep_first:
        ancestors[0] = 0
    log_mean_weight = log_mean(log_weight)
    return Resampled(
        ancestors, torch.where(done, 0.0, log_weight), torch.where(done, log_mean_weight, 0.0), done
    )


def _chosen(scheme: Scheme, probability: Tensor) -> Tensor:
    """The ancestors that a scheme chose, `[K, N]`, if they are particles."""
    chosen = instance("what the resampling scheme returned", scheme(probability), Tensor)
    wrong = chosen.shape != probability.shape or chosen.dtype != torch.long
    if wrong or bool(((chosen < 0) | (chosen >= len(probability))).any()):
        raise ValueError(
            f"the resampling scheme returned shape {tuple(chosen.shape)} and type {chosen.dtype}, expected "
            f"{tuple(probability.shape)}, whole numbers of particles from 0 to {len(probability) - 1}"
        )
    return chosen


def find_scheme(resampling: str | Scheme) -> Scheme:
    """The scheme of that name, or the function itself.

    Raises:
        ValueError: if no scheme has that name.
    """
    if callable(resampling):
        return function("resampling", resampling)
    return RESAMPLING[one_of("resampling", resampling, RESAMPLING)]


def num_distinct(rows: Tensor, log_weight: Tensor) -> Tensor:
    """How many different rows have any weight, for each prompt: `[K, N, T]` and `[K, N]` -> `[N]`."""
    alive = ~log_weight.isneginf()
    counts = [len(rows[alive[:, n], n].unique(dim=0)) for n in range(rows.shape[1])]
    return torch.tensor(counts, device=rows.device)
