"""Every figure of every script, shrunk to half a slide: titles, names of axes, size, overlap."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.agents.__main__ import agents_figure
from experiments.agents.speakers import AGENTS
from experiments.best_of_n.__main__ import best_figure
from experiments.best_of_n.best import exact_best
from experiments.collapse.report import entropy_figure
from experiments.compare.curves import Curve, figure_of
from experiments.distribution_matching import report as matching
from experiments.distribution_matching.tasks import METHODS, Task
from experiments.foreign.design import Cell
from experiments.foreign.records import Run
from experiments.foreign.report import strip_figure
from experiments.guide_zoo.costs import cost_figure, frontier_figure
from experiments.guide_zoo.gaps import Gap, gaps_figure
from experiments.guide_zoo.modes import modes_figure, table_of
from experiments.guide_zoo.runs import VARIANTS
from experiments.inference_zoo.__main__ import WITH_GUIDE
from experiments.inference_zoo.report import budget_figures
from experiments.inference_zoo.runs import FROM_GUIDE
from experiments.rlhf.report import over_optimisation_figure, reliability_figure
from experiments.shared.figures import plane_figure, save
from experiments.shared.training import RL
from experiments.shared.worlds import eight_tokens, two_modes
from experiments.steer.figures import elbo_figure, reward_kl_figure
from experiments.trainer_targets.__main__ import targets_figure
from experiments.trainer_targets.trainers import OURS
from experiments.trainer_targets.worlds import World
from inference import OBJECTIVES, SAMPLERS, Estimate, PriorSample
from inference.reward_posterior.calibration import Calibration
from model.preferences import AGGREGATIONS


@pytest.fixture(autouse=True)
def _figure_files():
    """All kinds of files."""


HALF_A_SLIDE = 480
"""Width, pixels."""
SMALLEST = 9.0
"""Height of the smallest letters at this width, pixels."""
KLS = [0.0, 0.5, 1.0, 1.5, 2.0]
METRICS = [
    {"step": step, "elbo": 2 - 3 / step, "kl": step / 20, "reward": 1 - 1 / step}
    for step in range(1, 41)
]
LEVELS = Estimate(2.0, 0.1), Estimate(-1.0, 0.1), Estimate(1.9, 0.1)
BINS = torch.linspace(0.52, 0.96, 8), torch.linspace(0.5, 0.9, 8), torch.full((8,), 40)
CALIBRATION = Calibration(Estimate(0.7, 0.02), Estimate(0.6, 0.02), 0.05, 0.03, *BINS)
CURVES = {str(n): (KLS, [0.5, n / 500, n / 400, n / 400, n / 600], [0.1] * 5) for n in (30, 300)}


def sample():
    """All responses of the world of eight tokens, with the reward as log likelihood."""
    return PriorSample.of_enumeration(eight_tokens().truth)


def places(names):
    return {
        name: (Estimate(0.2 + 0.1 * i, 0.02), Estimate(0.3, 0.01)) for i, name in enumerate(names)
    }


def compared(labels, errors):
    steps = np.arange(1, 41)
    curves = [Curve(label, steps, np.log(steps) + i, errors) for i, label in enumerate(labels)]
    return figure_of(curves, "completions/mean_length", labels, 10)


def dissociation():
    names = [matching.PRIOR, *METHODS, matching.TARGET]
    rows = {
        name: {"KL(p*||q)": Estimate(10.0**i, 0.1), "constraint": Estimate(0.2 * i, 0.05)}
        for i, name in enumerate(names)
    }
    titles = ('Every response says "film"', "50% of the responses are positive")
    tasks = [Task(title, None, 0.5, None, None) for title in titles]
    return matching.dissociation_figure(dict.fromkeys(tasks, rows))


def strip():
    guides = ("fine-tuned", "lora", "twisted", "soft-prompt", "prefix", "mixture")
    cells = [
        Cell("random-gpt2", "12", "0.1", "words", guide, objective)
        for guide in guides
        for objective in ("leave-one-out", "reward-to-go", "trajectory-balance", "forward-kl")
    ]
    prior = {"elbo": Estimate(-3.0, 0.1)}
    after = {"log_z": Estimate(0.0, 0.0), "kl_guide_posterior": Estimate(1.5, 0.3)}
    return strip_figure([Run(cell, 0, 40, prior=prior, after=after) for cell in cells])


def agents():
    truth = eight_tokens().truth
    noise = torch.randn(len(AGENTS), len(truth.support), generator=torch.Generator().manual_seed(0))
    rho = noise.double().softmax(0)
    weights = {beta: dict.fromkeys(AGENTS, Estimate(0.3, 0.05)) for beta in (1.0, 0.3)}
    return agents_figure(truth, truth.log_likelihood, rho, weights)


def zoo_curves():
    names = [*OBJECTIVES, *SAMPLERS, *(name + FROM_GUIDE for name in WITH_GUIDE)]
    budgets = (1200, 4800, 19_200)
    return {
        name: [(budget, (1 + i) / budget, 0.1 / budget) for budget in budgets]
        for i, name in enumerate(names)
    }


def panels_of_gaps():
    names = [name for name, variant in VARIANTS.items() if variant.on_tokens]
    gaps = {name: Gap(1e-7 * 3**i, 1e-3, 1e-4) for i, name in enumerate(names)}
    return {("KL(q || p*)", "leave-one-out"): gaps, ("KL(p* || q)", "forward-kl"): gaps}


def modes():
    table = table_of(two_modes().truth.log_posterior[:, 0].exp())
    kinds = ("mean-field, min KL(q || p*)", "mean-fields-2, min KL(q || p*)", "p*")
    return modes_figure(dict.fromkeys([*kinds, "mean-field, min KL(p* || q)"], table))


def means_of_guides():
    names = [name for name, variant in VARIANTS.items() if variant.on_text]
    measures = ("seconds", "kl_guide_posterior", "kl_posterior_guide", "reward", "kl_guide_prior")
    return {
        name: {measure: Estimate(1 + 0.1 * i, 0.05) for measure in measures}
        | {"parameters": Estimate(2000.0 * 2**i, 0.0)}
        for i, name in enumerate(names)
    }


def trajectories():
    return {name: [(0.1 * i, 0.05 * i) for i in range(12)] for name in means_of_guides()}


def targets():
    return targets_figure(OURS, {n: World.of(each.beta, each.target) for n, each in OURS.items()})


def entropies():
    names = [f"{name}, {way}" for name in RL for way in ("exact gradient", "sampled")]
    runs = [
        {step: 2.0 - 0.01 * step - 0.1 * seed for step in range(0, 100, 5)} for seed in range(3)
    ]
    return entropy_figure(dict.fromkeys(names, runs), {"prior": 2.3, "posterior": 1.6})


def best():
    sizes = (1, 2, 4, 8, 16, 32, 64)
    of_n = {n: exact_best(sample(), n) for n in sizes}
    return best_figure(sample(), of_n, "a grammar, exact")


FIGURES = {
    "agents": agents,
    "best_of_n": best,
    "collapse": entropies,
    "compare": lambda: compared(["beta 0.1", "beta 0.3, guide lora"], np.full(40, 0.1)),
    "compare, single runs": lambda: compared(
        [f"steer-20261126-1222{i}" for i in range(10)], np.full(40, np.nan)
    ),
    "distillation": lambda: plane_figure(
        sample(), places(f"distilled, n = {n}" for n in range(4)), "Distilled guides end below"
    )[0],
    "distribution_matching": dissociation,
    "foreign": strip,
    "guide_zoo, gaps": lambda: gaps_figure(panels_of_gaps()),
    "guide_zoo, modes": modes,
    "guide_zoo, frontier": lambda: frontier_figure(
        means_of_guides(), trajectories(), sample(), beta=1.0
    ),
    "guide_zoo, costs": lambda: cost_figure(means_of_guides()),
    "inference_zoo, objectives": lambda: budget_figures(zoo_curves(), "world")["world-objectives"],
    "inference_zoo, samplers": lambda: budget_figures(zoo_curves(), "world")["world-samplers"],
    "rlhf, over-optimisation": lambda: over_optimisation_figure(
        dict.fromkeys(
            ("30 preferences", "100 preferences", "300 preferences"),
            dict.fromkeys(AGGREGATIONS, CURVES["300"]),
        ),
        0.4,
        "next word",
    ),
    "rlhf, reliability": lambda: reliability_figure(
        {f"{n} preferences": CALIBRATION for n in (30, 100, 300, 1000)}
    ),
    "steer, elbo": lambda: elbo_figure(METRICS, *LEVELS),
    "steer, reward_kl": lambda: reward_kl_figure(
        METRICS, sample(), 1.0, (Estimate(1.9, 0.1), Estimate(0.9, 0.1))
    ),
    "trainer_targets": targets,
}
"""Functions that draw a figure from numbers made up here, by script."""


@pytest.fixture(scope="module", params=FIGURES)
def figure(request):
    figure = FIGURES[request.param]()
    figure.canvas.draw()  # places and sizes of texts exist in a figure that was drawn
    yield figure
    plt.close("all")


def outside(axis: Axis) -> set[Text]:
    """Labels of ticks beyond the limits of an axis, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    margin = 1e-6 * (high - low)
    beyond = [tick for tick in ticks if not low - margin <= tick.get_loc() <= high + margin]
    return {label for tick in beyond for label in (tick.label1, tick.label2)}


def texts_of(figure: Figure) -> list[Text]:
    """Drawn texts that are not empty, with those of legends, titles and ticks."""
    hidden = set().union(*(outside(axis) for axis in figure.findobj(Axis)))
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text not in hidden]
    return [text for text in dict.fromkeys(texts) if text.get_window_extent().width > 0]


def is_named(axis: Axis) -> bool:
    """True for an axis with a label, and for an axis whose ticks have words."""
    ticks = [label.get_text() for label in axis.get_ticklabels()]
    return bool(axis.get_label_text()) or any(re.search("[a-z]{2}", text) for text in ticks)


def test_titles_and_axes_have_words(figure):
    title = figure.get_suptitle() or figure.axes[0].get_title()
    assert len(title.split()) >= 4
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            columns, rows = axes.get_shared_x_axes(), axes.get_shared_y_axes()
            assert any(is_named(other.xaxis) for other in columns.get_siblings(axes))
            assert any(is_named(other.yaxis) for other in rows.get_siblings(axes))


def test_letters_are_large_at_half_a_slide(figure):
    texts, width = texts_of(figure), figure.get_tightbbox().width
    pixels = {text.get_text(): text.get_fontsize() / 72 * HALF_A_SLIDE / width for text in texts}
    assert {text: size for text, size in pixels.items() if size < SMALLEST} == {}


def test_no_text_covers_another(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    pairs = combinations(boxes, 2)
    assert [(one, two) for (one, box), (two, other) in pairs if box.overlaps(other)] == []


@pytest.mark.parametrize("distance", [0.0, 100.0], ids=["prior", "far from the prior"])
def test_the_legends_of_a_run_cover_no_step(distance):
    """A guide that does not start at the prior has a low ELBO and a large KL at the end."""
    moved = [{**each, "elbo": each["elbo"] - distance, "kl": distance} for each in METRICS]
    end = Estimate(distance or 1.9, 0.1), Estimate(0.0, 0.1)
    for figure in (
        elbo_figure(moved, *LEVELS, "student"),
        reward_kl_figure(moved, sample(), 1.0, end),
    ):
        figure.draw_without_rendering()
        (axes,) = figure.axes
        box = axes.get_legend().get_window_extent()
        for line in axes.lines:
            if len(line.get_xdata()) > 2:
                assert not box.count_contains(line.get_transform().transform(line.get_xydata()))
    texts = elbo_figure(moved, *LEVELS, "student").axes[0].get_legend().get_texts()
    assert "ELBO of the student (± 2 s.e.)" in [text.get_text() for text in texts]


@pytest.mark.parametrize("kl", [-1e-7, 0.0, 1e-9])
def test_the_plane_of_a_guide_at_the_prior_has_an_axis_of_one_nat(kl):
    axes = plane_figure(sample(), {"q": (Estimate(kl, 0.0), Estimate(0.0, 0.0))}, "at p0")[1]
    assert axes.get_xlim() == pytest.approx((-0.05, 1.1))


def test_a_figure_is_written_in_three_formats(tmp_path):
    save(elbo_figure(METRICS, *LEVELS), tmp_path / "elbo.svg")
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png", ".pdf"}
