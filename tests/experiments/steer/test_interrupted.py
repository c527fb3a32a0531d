"""An interrupted fit leaves a checkpoint, a report of its steps, and the command that goes on."""

import signal
import sys
from dataclasses import replace

import pytest

from experiments.shared.metrics_file import read_metrics, recent
from experiments.steer import views
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from inference.svi.checkpoint.folder import has_checkpoint
from tests.experiments.steer.small import SHORT, ended_early


@pytest.fixture
def args(grammar_folder, tmp_path):
    return replace(SHORT, prior=str(grammar_folder), prompts=("the film was",), out=tmp_path)


def test_an_interrupt_leaves_a_report_a_checkpoint_and_the_command(args, capsys, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    folder, error = ended_early(args)
    assert error.__notes__[-1] == f"To go on: python -m experiments.steer --resume {folder.path}"
    assert has_checkpoint(folder.checkpoints)
    printed, page = capsys.readouterr().out, folder.report.read_text()
    for part in ("interrupted after step 3", "E[r]", "KL(q || p0)", "log Z", "From the guide so"):
        assert part in printed
    for part in ("interrupted after step 3", "mean of the last 10 steps", "From the guide so far"):
        assert part in page
    warning = "draws of the prior effective, fewer than 30: log Z may be far off."  # of 40 draws
    assert all(text.count(" (?)") == 2 and warning in text for text in (printed, page))
    assert page.count("<svg") == 2
    metrics = read_metrics(folder.metrics)
    assert str(recent(metrics, "reward")) in page
    assert not folder.measurements.exists()
    main(Steer(resume=folder.path))
    assert [record["step"] for record in read_metrics(folder.metrics)] == [1, 2, 3, 4, 5]
    assert "interrupted" not in folder.report.read_text()


def test_a_model_with_factors_has_a_report_too(args):
    folder, _ = ended_early(replace(args, constraint=("words:bad<=0",), penalty=2.0))
    assert folder.report.read_text().count("<svg") == 1


def test_a_second_interrupt_ends_at_once_and_the_curves_are_there(args, monkeypatch):
    def interrupted_again(*_):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr(views, "sample_texts", interrupted_again)
    folder, error = ended_early(args)
    assert f"--resume {folder.path}" in error.__notes__[-1]
    assert "interrupted after step 3" in folder.report.read_text()


def test_a_report_that_fails_does_not_hide_the_interrupt(args, monkeypatch, capsys):
    def fails(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(views, "sample_texts", fails)
    folder, error = ended_early(args)
    assert f"--resume {folder.path}" in error.__notes__[-1]
    problem = "The report so far could not be written: OSError: No space left on device"
    assert problem in capsys.readouterr().out


def test_an_interrupt_before_the_first_step_has_no_report(args, tmp_path, monkeypatch):
    def interrupted_fit(*_, **__):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.setattr("experiments.steer.training.fit", interrupted_fit)
    with pytest.raises(KeyboardInterrupt):
        main(args)
    assert [*tmp_path.iterdir()] == []
