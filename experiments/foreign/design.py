"""Balanced fraction of all combinations of priors, lengths, betas, rewards, guides, objectives.

Priors and guides are dealt in turn, so that each prior meets each guide. The levels of the other
factors are shuffled, and levels are exchanged between cells of one column while the sum of (number
of cells)^2 over the pairs of levels of two factors does not rise. The sum is smallest where all
pairs appear equally often (a coordinate exchange, Meyer and Nachtsheim 1995).
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple


class Cell(NamedTuple):
    """One combination of levels, each by its name."""

    prior: str
    length: str
    beta: str
    reward: str
    guide: str
    objective: str

    @property
    def name(self) -> str:
        """All levels, separated by commas."""
        return ", ".join((*self[:2], f"beta {self.beta}", *self[3:]))


FACTORS: dict[str, Sequence[str]] = {
    "prior": (
        *("film-reviews-0.7", "film-reviews-1", "stories260k"),
        *("random-gpt2", "random-llama", "smollm2"),
    ),
    "length": ("12", "24", "48"),
    "beta": ("0.05", "0.1", "0.2", "0.5"),
    "reward": ("sentiment", "words", "length", "logit"),
    "guide": ("fine-tuned", "lora", "twisted", "soft-prompt", "prefix", "mixture"),
    "objective": ("leave-one-out", "reward-to-go", "trajectory-balance", "forward-kl"),
}
"""Levels by factor, in the order of `Cell`."""

EXPENSIVE = "smollm2"
"""Prior of one cell for each guide; the other priors share the rest."""
LONGEST = {"film-reviews-0.7": 24, "film-reviews-1": 24, "smollm2": 12}
"""Largest number of tokens of a response of the priors that cost most."""
NUM_EXCHANGES = 5_000
"""Number of attempted exchanges; the imbalance stands still after about half of them."""
TOO_LONG = 100
"""Imbalance of a cell whose response is longer than `LONGEST` allows."""


@cache
def design(num_cells: int, seed: int) -> tuple[Cell, ...]:
    """Different cells, ordered by prior, `EXPENSIVE` last. They depend on the arguments alone.

    Every level of a factor appears equally often, within one cell, apart from the prior
    `EXPENSIVE`. No response is longer than `LONGEST` allows if there are enough other priors.
    """
    generator = random.Random(seed)
    columns = {factor: _levels(factor, num_cells) for factor in FACTORS}
    columns["prior"].sort(key=lambda prior: (_longest(prior), prior))
    columns["length"].sort(key=int)  # short responses for the first priors
    exchanged = ("length", "beta", "reward", "objective")
    for factor in exchanged[1:]:
        generator.shuffle(columns[factor])
    for _ in range(NUM_EXCHANGES):
        factor = generator.choice(exchanged)
        first, second = generator.sample(range(num_cells), 2)
        before, column = imbalance(columns, factor), columns[factor]
        column[first], column[second] = column[second], column[first]
        if imbalance(columns, factor) > before:
            column[first], column[second] = column[second], column[first]
    order = FACTORS["prior"].index
    cells = {Cell(*levels) for levels in zip(*columns.values(), strict=True)}
    return tuple(sorted(cells, key=lambda cell: (order(cell.prior), cell)))


def _longest(prior: str) -> int:
    return LONGEST.get(prior, int(FACTORS["length"][-1]))


def _levels(factor: str, num_cells: int) -> list[str]:
    """Levels of a factor in all cells, equally often; `EXPENSIVE` once for each guide."""
    levels = [level for level in FACTORS[factor] if level != EXPENSIVE]
    few = [EXPENSIVE] * len(FACTORS["guide"]) if factor == "prior" else []
    return few + [levels[place % len(levels)] for place in range(num_cells - len(few))]


def imbalance(columns: Mapping[str, Sequence[str]], factor: str) -> int:
    """Sum of squared counts of the pairs of levels of one factor with every other factor."""
    others = [column for name, column in columns.items() if name != factor]
    counts = [Counter(zip(columns[factor], other, strict=True)) for other in others]
    squares = sum(number**2 for count in counts for number in count.values())
    pairs = zip(columns["prior"], columns["length"], strict=True)
    return squares + TOO_LONG * sum(int(length) > _longest(prior) for prior, length in pairs)
