import math

import pytest

from experiments.shared import figures
from experiments.shared.run_folder import RunFolder
from experiments.steer.live import page
from experiments.steer.views import RunSoFar
from guides import FineTuned
from inference import Estimate, sample_prior
from model import AlignmentModel, TokenReward


@pytest.fixture
def each_step(monkeypatch):
    """A version of the live page, and samples, at each step."""
    monkeypatch.setattr(page, "PERIOD", 0.0)
    monkeypatch.setattr(page, "SHARE", math.inf)


@pytest.fixture
def live(prior, prompts, tmp_path):
    """A live view of 10 steps, with a reward that is different for most responses."""

    def reward(response, is_word):
        return (response * is_word).sum(-1).double() / 10

    model = AlignmentModel(prior, TokenReward(reward, prior), beta=0.5)
    run = (model, FineTuned(prior), prompts, sample_prior(model, prompts, 820), Estimate(0.5, 0.1))
    return page.LivePage(RunSoFar(RunFolder(tmp_path), "A <run>", *run), {"num_steps": 10})


@pytest.fixture(scope="module")
def grammar_folder(prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    prior.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _figures(monkeypatch):
    """Leave the figures of a report empty. The modules that test reports replace this fixture."""

    def save(figure, path):
        figures.plt.close(figure)
        path.write_text("<svg></svg>")
        return path

    monkeypatch.setattr(figures, "save", save)
