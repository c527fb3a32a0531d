"""Findings on errors of identities, and on estimates with a standard error."""

import math

import torch
from torch import Tensor

from experiments.shared.claims import NOISY, Finding, largest
from experiments.shared.tables import cell
from inference import Estimate

EXACT = 1e-10
"""Largest error of an identity in float64."""


def exact(subject: str, *errors: float | Tensor, limit: float = EXACT) -> Finding:
    """An equation that holds up to rounding, in all numbers of all errors."""
    error = largest(torch.as_tensor(each).abs().max().item() for each in errors)
    return Finding(f"{subject}: error {error:.1e} (at most {limit:.0e})", error <= limit)


def spread(values: Tensor) -> float:
    """Largest minus smallest value, 0 for a constant."""
    return (values.max() - values.min()).item()


def beyond(
    subject: str, estimate: Estimate, *, above: float = -math.inf, below: float = math.inf
) -> Finding:
    """An estimate on one side of a limit, by two standard errors."""
    limit = above if math.isfinite(above) else below
    distance = estimate.value - limit if math.isfinite(above) else limit - estimate.value
    side = f"above {above:.3g}" if math.isfinite(above) else f"below {below:.3g}"
    text = f"{subject}: {cell(*estimate)} ({side})"
    if abs(distance) < 2 * estimate.standard_error:
        return Finding(f"{text}, {NOISY}", False)
    return Finding(text, distance > 0)


def agrees(subject: str, estimate: Estimate, truth: float) -> Finding:
    """An estimate within three standard errors of the truth."""
    held = abs(estimate.value - truth) <= 3 * estimate.standard_error
    return Finding(f"{subject}: {cell(*estimate)}, exact {truth:.4g} (within 3 errors)", held)
