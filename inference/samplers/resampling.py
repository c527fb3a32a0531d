"""Resampling: K weighted particles become K particles of equal weight, each prompt on its own.

    ancestors a_1 .. a_K with   E[#{k: a_k = j}] = K W_j

All four schemes satisfy that equation, which keeps sequential Monte Carlo unbiased. The schemes
differ in the variance of the counts (Douc, Cappe and Moulines 2005, arXiv cs/0507025).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.common.checks import function, instance, one_of

Scheme = Callable[[Tensor], Tensor]
"""A function from probabilities `[K, N]` to ancestors `[K, N]`, each from 0 to K - 1."""


def multinomial(probability: Tensor) -> Tensor:
    """Draw all ancestors independently. The noisiest scheme, and the only independent one."""
    _check(probability)
    return torch.multinomial(probability.T, len(probability), replacement=True).T


def stratified(probability: Tensor) -> Tensor:
    """Invert the distribution function at one uniform number in each of K equal strata."""
    return _invert(probability, num_uniforms=len(probability))


def systematic(probability: Tensor) -> Tensor:
    """Stratified with the same uniform number in all strata: counts are K W_j, rounded."""
    return _invert(probability, num_uniforms=1)


def residual(probability: Tensor) -> Tensor:
    """Take K W_j rounded down for certain, and fill the remaining places by independent draws."""
    _check(probability)
    num_particles = len(probability)
    expected = num_particles * probability.double()
    certain = (expected + 1e-9).floor()  # K times 1/K may be rounded to just below 1
    rest = (expected - certain).clamp(min=0.0)
    rest = rest + (rest.sum(0) == 0)  # with no place to fill, `multinomial` still needs a sum
    drawn = torch.multinomial(rest.T, num_particles, replacement=True)  # [N, K]
    until = certain.T.contiguous().cumsum(-1)
    place = torch.arange(num_particles, dtype=until.dtype, device=until.device)
    # K where the place is after the certain ones
    copied = torch.searchsorted(until, place.expand_as(until).contiguous(), right=True)
    return torch.where(copied < num_particles, copied, drawn).T


def _invert(probability: Tensor, num_uniforms: int) -> Tensor:
    """Particles in which the points (k + u_k) / K fall, with all particles laid end to end."""
    _check(probability)
    num_particles = len(probability)
    cdf = probability.T.double().cumsum(-1)  # [N, K]
    total = cdf[:, -1:]
    shape = num_uniforms, probability.shape[1]
    uniform = torch.rand(shape, dtype=torch.float64, device=cdf.device)
    stratum = torch.arange(num_particles, device=cdf.device)[:, None]
    point = (stratum + uniform).T / num_particles * total
    # a point rounded up to the total would fall after the last particle of positive weight
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, point.contiguous(), right=True).T


def _check(probability: Tensor) -> None:
    """Refuse a column that is no distribution: a search for NaN always ends at the last place."""
    is_valid = probability.dim() == 2 and bool(
        ((probability >= 0).all(0) & (probability.sum(0) > 0)).all()
    )
    if not is_valid:
        raise ValueError(
            f"probability has shape {tuple(probability.shape)} and a column that is no "
            "distribution, expected [K, N], numbers of at least 0 with a positive sum over K"
        )


RESAMPLING: dict[str, Scheme] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
}
"""Schemes by name."""


def ancestors_by(scheme: Scheme, probability: Tensor) -> Tensor:
    """Ancestors by a scheme, `[K, N]`, checked to be numbers of particles."""
    result = instance("what the resampling scheme returned", scheme(probability), Tensor)
    wrong = result.shape != probability.shape or result.dtype != torch.long
    if wrong or bool(((result < 0) | (result >= len(probability))).any()):
        raise ValueError(
            f"the resampling scheme returned shape {tuple(result.shape)} and type {result.dtype}, "
            f"expected {tuple(probability.shape)}, whole numbers from 0 to {len(probability) - 1}"
        )
    return result


def find_scheme(resampling: str | Scheme) -> Scheme:
    """Return the scheme of that name or the function itself, or raise `ValueError`."""
    if callable(resampling):
        return function("resampling", resampling)
    return RESAMPLING[one_of("resampling", resampling, RESAMPLING)]


def num_distinct(rows: Tensor, log_weight: Tensor) -> Tensor:
    """Number of different rows with positive weight: `[K, N, T]` and `[K, N]` -> `[N]`."""
    alive = ~log_weight.isneginf()
    counts = [len(rows[alive[:, n], n].unique(dim=0)) for n in range(rows.shape[1])]
    return torch.tensor(counts, device=rows.device)
