"""Simulation-based calibration of an inference, on data simulated from the model.

    w* ~ p(w),   data ~ p(data | w*),   w_1 .. w_S ~ inference given the data
    rank = #{s : f(w_s) < f(w*)},   plus a uniform share of the draws with f(w_s) = f(w*)

Talts et al. 2018, arXiv 1804.06788. For independent draws of the exact posterior, every rank from
0 to S is equally likely, for every f, also for one with few values. Ranks at both ends show a
posterior too narrow, ranks in the middle one too wide, ranks at one end a bias.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from inference import random_state
from inference.estimate import check_numbers
from model.common.checks import as_given, boolean, function, instance, whole_number
from model.preferences import Observations


@dataclass(frozen=True)
class Ranks:
    """Ranks of the true quantities among the draws."""

    rank: Tensor  # `[R, Q]`, from 0 to S, for Q quantities in each of R simulations
    num_samples: int  # S, number of draws in a simulation

    def __post_init__(self) -> None:
        whole_number("num_samples", self.num_samples)
        rank = instance("rank", self.rank, Tensor)
        if rank.dim() != 2 or not len(rank):
            expected = "expected [R, Q]: Q quantities in each of R simulations"
            raise ValueError(f"rank has shape {tuple(rank.shape)}, {expected}")
        if rank.is_floating_point() or bool(((rank < 0) | (rank > self.num_samples)).any()):
            expected = f"expected whole numbers from 0 to {self.num_samples}"
            raise ValueError(f"rank has values of type {rank.dtype}, {expected}")

    def histogram(self, num_bins: int) -> Tensor:
        """Number of simulations in each bin of ranks, `[Q, B]`; B must divide S + 1."""
        num_bins = whole_number("num_bins", num_bins)
        num_ranks = self.num_samples + 1
        if num_ranks % num_bins:
            fault = f"{num_ranks} ranks do not fall into {num_bins} bins of one size"
            raise ValueError(f"{fault}: choose a divisor")
        bins = self.rank * num_bins // num_ranks
        return torch.stack([torch.bincount(column, minlength=num_bins) for column in bins.T])

    def p_values(self, num_bins: int = 10) -> Tensor:
        """p-value of the chi-square test of uniform ranks, `[Q]`; needs five simulations a bin."""
        rows = self.histogram(num_bins)
        return torch.tensor([float(stats.chisquare(row.cpu().numpy()).pvalue) for row in rows])

    def p_value(self, num_bins: int = 10) -> float:
        """p-value over all quantities (Bonferroni): never too small."""
        p_values = self.p_values(num_bins)
        return min(1.0, p_values.min().item() * len(p_values))


def simulation_based_calibration(
    model: Callable[[Any], Any],
    comparisons: Observations,
    infer: Callable[..., Tensor],
    *,
    num_simulations: int,
    num_samples: int,
    quantities: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Ranks:
    """Ranks of the true quantities among the draws of an inference.

    Args:
        model: a Pyro program over comparisons with a latent site `w`, which draws the outcomes of
            comparisons without outcomes.
        comparisons: the design; each simulation draws new outcomes.
        infer: a function as in `REWARD_INFERENCE`. A point estimate has no ranks; a Markov chain
            needs thinning.
        num_simulations: R.
        num_samples: S, conveniently with small divisors of S + 1, such as 99.
        quantities: f, from weights `[..., P]` to `[..., Q]`; default the weights themselves.
        seed: random seed.
        progress: True to show a progress bar.

    Raises:
        NotANumberError: if a draw or a quantity is NaN.
        ValueError: if a number is out of range, or the inference returns another number of draws.
    """
    function("the model", model, why="a Pyro program over comparisons")
    function("infer", infer, why="of a model and comparisons")
    instance("comparisons", comparisons, Observations)  # type: ignore[type-abstract]
    if quantities is not None:
        function("quantities", quantities, why="of weights")
    num_simulations = whole_number("num_simulations", num_simulations)
    num_samples = whole_number("num_samples", num_samples)
    boolean("progress", progress)
    bar = tqdm(range(num_simulations), "calibration", unit="simulation", disable=not progress)
    ranks = []
    with random_state.isolated(seed, comparisons.like.device), pyro.get_param_store().scope():
        for simulation in bar:
            with torch.no_grad():
                trace = poutine.trace(model).get_trace(comparisons.given(None))
            truth, outcome = trace.nodes["w"]["value"], trace.nodes["outcome"]["value"]
            data = comparisons.given(outcome)
            samples = infer(model, data, num_samples=num_samples, seed=seed + simulation)
            samples = check_numbers("what infer returned", samples)
            if quantities is not None:
                truth, samples = quantities(truth), quantities(samples)
            truth = check_numbers("a true value of quantities", truth)
            expected = truth.expand(num_samples, *truth.shape)
            as_given("what infer or quantities returned", samples, expected)
            ranks.append(_rank(truth, check_numbers("a value of quantities", samples)))
    return Ranks(torch.stack(ranks), num_samples)


def _rank(truth: Tensor, samples: Tensor) -> Tensor:
    """Rank of the truth `[Q]` among draws `[S, Q]`, ties at random: `[Q]`."""
    below, level = (samples < truth).sum(0), (samples == truth).sum(0)
    if not bool(level.any()):
        return below
    return below + (torch.rand_like(truth) * (level + 1)).long().minimum(level)
