"""Long loops over draws show a bar, short loops are silent."""

import re
from functools import partial
from multiprocessing import get_context

import pytest
from tqdm import tqdm

from inference import diagnose, importance_sampling, sample_prior
from inference.samplers.proposal import counted

SIZES = {"num_samples": 20, "chunk": 8}


def measure(model, guide, prompts):
    return diagnose(model, guide, prompts, num_prior_draws=12, **SIZES)


def test_short_measurements_are_silent(model, guide, prompts, capsys):
    measure(model, guide, prompts)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("loop", "bars"),
    [
        (measure, {"draws of the prior": 12, "scores of the prior's draws": 12}),
        (measure, {"draws of the guide": 20, "guide scores of the prior's draws": 12}),
        (
            lambda model, guide, prompts: importance_sampling(model, prompts, guide=guide, **SIZES),
            {"draws of the guide": 20},
        ),
        (
            lambda model, guide, prompts: sample_prior(
                model, prompts, 20, independent=True, purpose="a test", chunk=8
            ),
            {"draws of the prior": 20, "scores of the prior's draws": 20},
        ),
    ],
)
def test_a_bar_counts_the_draws_of_a_long_loop(
    model, guide, prompts, loop, bars, capsys, monkeypatch
):
    monkeypatch.setattr("inference.samplers.proposal.SILENT", 0.0)
    monkeypatch.setattr(
        "inference.samplers.proposal.tqdm", partial(tqdm, mininterval=0, miniters=1)
    )
    loop(model, guide, prompts)
    shown = capsys.readouterr().err
    for name, num_draws in bars.items():
        assert f"\r{name}:   0%" in shown
        assert re.search(rf"\r{name}: 100%.* {num_draws}/{num_draws} \[", shown)


def _long_loop():
    list(counted("draws", [1, 2], [1, 1]))


def test_a_worker_process_shows_no_bar(capfd, monkeypatch):
    monkeypatch.setattr("inference.samplers.proposal.SILENT", 0.0)
    worker = get_context("fork").Process(target=_long_loop)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert capfd.readouterr().err == ""
    _long_loop()
    assert "draws" in capfd.readouterr().err
