"""The design: balance, lengths, cells of the expensive prior, and no dependence on the process."""

from collections import Counter
from itertools import product

import pytest

from experiments.foreign.design import EXPENSIVE, FACTORS, LONGEST, design
from model.common.files import text_digest

SIZES = [(48, 0), (72, 0), (72, 7), (96, 0)]


@pytest.fixture(params=SIZES, ids=str)
def cells(request):
    return design(*request.param)


def test_levels_appear_equally_often(cells):
    for place, (factor, levels) in enumerate(FACTORS.items()):
        counts = Counter(cell[place] for cell in cells)
        assert counts.keys() == set(levels)
        few = counts.pop(EXPENSIVE, None)
        assert few == (len(FACTORS["guide"]) if factor == "prior" else None)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("first", "second"), [("guide", "objective"), ("prior", "guide")])
def test_all_pairs_appear(cells, first, second):
    counts = Counter((getattr(cell, first), getattr(cell, second)) for cell in cells)
    assert counts.keys() == set(product(FACTORS[first], FACTORS[second]))
    assert max(counts.values()) <= 2 * len(cells) / (len(FACTORS[first]) * len(FACTORS[second]))


def test_cells_are_different_and_long_only_where_they_are_cheap(cells):
    assert len(set(cells)) == len(cells)
    assert all(int(cell.length) <= LONGEST.get(cell.prior, 48) for cell in cells)
    assert cells[-1].prior == EXPENSIVE


def test_the_design_depends_on_its_arguments_alone():
    assert design.__wrapped__(72, 0) == design(72, 0) != design(72, 7)
    # The cells stay as they are: a default that is tuned to them is not tested by them.
    assert (
        text_digest("\n".join(cell.name for cell in design(72, 0)))
        == "59832177792303935a8799ee3d5929d9"
    )
