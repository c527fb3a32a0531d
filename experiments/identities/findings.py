"""Findings on errors of identities, and on estimates with a standard error."""

import torch
from torch import Tensor

from experiments.shared.claims import Finding, largest
from experiments.shared.tables import cell
from inference import Estimate
from inference.estimate import REFUTED

EXACT = 1e-10
"""Largest error of an identity in float64."""


def exact(subject: str, *errors: float | Tensor, limit: float = EXACT) -> Finding:
    """An equation that holds up to rounding, in all numbers of all errors."""
    error = largest(torch.as_tensor(each).abs().max().item() for each in errors)
    return Finding(f"{subject}: error {error:.1e} (at most {limit:.0e})", error <= limit)


def spread(values: Tensor) -> float:
    """Largest minus smallest value, 0 for a constant."""
    return (values.max() - values.min()).item()


def agrees(subject: str, estimate: Estimate, truth: float) -> Finding:
    """An estimate that does not refute the truth."""
    held = abs(estimate.value - truth) <= REFUTED * estimate.standard_error
    limits = f"exact {truth:.4g} (within {REFUTED:g} errors)"
    return Finding(f"{subject}: {cell(*estimate)}, {limits}", held)
