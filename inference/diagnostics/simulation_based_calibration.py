"""Simulation-based calibration: does an inference find what it should, on data made by the model itself (Talts et al. 2018)?

    w* ~ p(w),   data ~ p(data | w*),   w_1 .. w_S ~ the inference's posterior given the data;   rank = #{s : f(w_s) < f(w*)}

If the draws are of the exact posterior and independent, every rank from 0 to S is as likely as any other, for every f. Ranks
that heap up at both ends say that the posterior is too narrow, in the middle too wide, at one end that it is biased
(arXiv 1804.06788).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.estimate import check_numbers
from model.common.checks import function, instance, whole_number
from model.preferences import Comparisons


@dataclass(frozen=True)
class Ranks:
    """What came of the simulations.

    Attributes:
        rank: `[R, Q]`, from 0 to S: of each quantity in each simulation.
        num_samples: S.
    """

    rank: Tensor
    num_samples: int

    def __post_init__(self) -> None:
        whole_number("num_samples", self.num_samples)
        if instance("rank", self.rank, Tensor).dim() != 2 or not len(self.rank):
            raise ValueError(
                f"rank has shape {tuple(self.rank.shape)}, expected [R, Q]: Q quantities in each of R simulations"
            )
        if self.rank.is_floating_point() or bool(
            ((self.rank < 0) | (self.rank > self.num_samples)).any()
        ):
            raise ValueError(
                f"rank has values of type {self.rank.dtype}, expected whole numbers from 0 to {self.num_samples}"
            )

    def histogram(self, num_bins: int) -> Tensor:
        """Simulations in each bin of ranks, `[Q, B]`.

        Raises:
            ValueError: if S + 1 ranks do not make bins of one size, in which even exact draws would not be uniform.
        """
        num_bins = whole_number("num_bins", num_bins)
        if (self.num_samples + 1) % num_bins:
            raise ValueError(
                f"{self.num_samples + 1} ranks do not fall into {num_bins} bins of one size: choose a divisor"
            )
        bins = self.rank * num_bins // (self.num_samples + 1)
        return torch.stack([torch.bincount(column, minlength=num_bins) for column in bins.T])

    def p_values(self, num_bins: int = 10) -> Tensor:
        """Of the chi-square test that ranks are uniform, `[Q]`. It wants five simulations a bin or more."""
        return torch.tensor(
            [float(stats.chisquare(row.numpy()).pvalue) for row in self.histogram(num_bins)]
        )

    def p_value(self, num_bins: int = 10) -> float:
        """Of all quantities together: the smallest, times how many there are (Bonferroni), so that it is never too small."""
        p_values = self.p_values(num_bins)
        return min(1.0, p_values.min().item() * len(p_values))


def simulation_based_calibration(
    model: Callable[[Comparisons], Any],
    comparisons: Comparisons,
    infer: Callable[..., Tensor],
    *,
    num_simulations: int,
    num_samples: int,
    quantities: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Ranks:
    """Ranks of what is true among the draws of an inference.

    Args:
        model: a Pyro program over comparisons with a latent site `w`, which draws the outcomes where there are none.
        comparisons: the design; outcomes are drawn anew in each simulation.
        infer: as those in `REWARD_INFERENCE`. A point estimate has no ranks; a Markov chain should be thinned.
        num_simulations: R.
        num_samples: S; S + 1 with small divisors is convenient, such as 99.
        quantities: f, weights `[..., P]` to `[..., Q]`; default the weights themselves.
        seed: of the simulations.
        progress: show a bar.

    Raises:
        NotANumberError: if a draw or a quantity is NaN, which has no rank.
        ValueError: if a number is out of its range, or the inference returns another number of draws.
    """
    function("the model", model, why="a Pyro program over comparisons")
    function("infer", infer, why="of a model and comparisons")
    instance("comparisons", comparisons, Comparisons)
    if quantities is not None:
        function("quantities", quantities, why="of weights")
    num_simulations = whole_number("num_simulations", num_simulations)
    num_samples = whole_number("num_samples", num_samples)
    ranks = []
    with random_state.isolated(seed), pyro.get_param_store().scope():
        for simulation in tqdm(
            range(num_simulations), desc="calibration", unit="simulation", disable=not progress
        ):
            with torch.no_grad():
                trace = poutine.trace(model).get_trace(replace(comparisons, outcome=None))
            truth, outcome = trace.nodes["w"]["value"], trace.nodes["outcome"]["value"]
            samples = infer(
                model,
                replace(comparisons, outcome=outcome),
                num_samples=num_samples,
                seed=seed + simulation,
            )
            if len(samples) != num_samples:
                raise ValueError(
                    f"the inference returned {len(samples)} draws, expected {num_samples}: it has no ranks to give"
                )
            if quantities is not None:
                truth, samples = quantities(truth), quantities(samples)
            truth, samples = (
                check_numbers("a true quantity", truth),
                check_numbers("a quantity of a draw", samples),
            )
            ranks.append((samples < truth).sum(0))
    return Ranks(torch.stack(ranks), num_samples)
