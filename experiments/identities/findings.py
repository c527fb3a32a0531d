"""Findings on errors of identities, and on estimates with a standard error."""

from collections.abc import Iterable
from math import inf

import torch
from torch import Tensor

from experiments.shared.claims import Finding, largest, within
from experiments.shared.tables import cell
from inference import Estimate
from inference.estimate import REFUTED

EXACT = 1e-10
"""Largest error of an identity in float64."""
DISTINCT = 1e-3
"""KL, nats, above which distributions are not the same: 100 times the largest error of a minimum.

`exact` allows 1e-5 nats to a distribution at the computed minimum of a loss.
"""


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


def over_cases(
    subject: str, *values: Iterable[float], above: float = -inf, below: float = inf
) -> Finding:
    """Means of numbers, each a number of every one of `world.cases`, between the limits.

    The statement counts the cases whose numbers are all between the limits too.
    """
    every = [torch.tensor(list(each), dtype=torch.float64) for each in values]  # [C] each
    agree = torch.stack([(above < each) & (each < below) for each in every]).all(0)
    text = f"{subject}, in {int(agree.sum())} of {len(agree)} cases, and their mean"
    means = [Estimate.of_mean(each[:, None]) for each in every]
    return within(text, *means, above=above, below=below, num_runs=len(agree))


def paired(subject: str, first: Tensor, second: Tensor, **limits: float) -> Finding:
    """The mean difference of two numbers of each case, `[C]`, between the limits."""
    text = f"{subject}, {first.mean():.2g} less {second.mean():.2g}"
    return over_cases(text, (first - second).tolist(), **limits)


def most_less(
    subject: str, first: Tensor, second: Tensor, *, above: float = 0.5, below: float = inf
) -> Finding:
    """The first of two numbers of each case, `[C]`, is the smaller one in most of the cases."""
    share, size = Estimate.of_share((first < second).double()[:, None]), len(first)
    text = f"{subject}, share of {size} cases"
    return within(text, share, above=above, below=below, num_runs=size)


def either_order(subject: str, first: Tensor, second: Tensor) -> Finding:
    """Two numbers of each case, `[C]`, each the smaller one in a good part of the cases."""
    return most_less(subject, first, second, above=0.2, below=0.8)
