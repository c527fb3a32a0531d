"""Early stops of a fit are printed by every script, and a claim does not hold after one."""

from dataclasses import replace

import pytest

from experiments.agents import __main__ as agents
from experiments.shared.command_line import run_script
from experiments.shared.early_stops import early_stops
from experiments.shared.training import train
from experiments.steer.__main__ import main
from guides import FineTuned
from inference import OBJECTIVES
from model import AlignmentModel, Pattern, TextReward
from tests.experiments.diverges import DIVERGES, Diverges
from tests.experiments.steer.small import SHORT

pytestmark = pytest.mark.filterwarnings("ignore:fit stopped early")


@pytest.fixture
def model(prior):
    return AlignmentModel(prior, TextReward(Pattern.of_words("not"), prior), beta=0.5)


def test_a_fit_that_stops_early_is_in_the_list(model, prompts):
    with early_stops() as stops:
        train(FineTuned(model.prior), model, prompts, Diverges(), 3, seed=7)
    assert len(stops) == 1
    assert stops[0].startswith(
        "FineTuned by Diverges, seed 7: stopped early at step 0: the loss is nan"
    )
    with early_stops() as none:
        train(FineTuned(model.prior), model, prompts, OBJECTIVES["trace"](num_particles=2), 1)
    assert none == []


def test_a_claim_does_not_hold_after_a_fit_that_stopped_early(monkeypatch, tmp_path, capsys, prior):
    """Every script with fits: the list is of the run, and `conclude` reads the list."""
    monkeypatch.setattr(agents, "LeaveOneOut_ELBO", Diverges)
    monkeypatch.setattr(agents, "grammar_prior", lambda *_, **__: prior)
    with pytest.raises(SystemExit) as ended:
        run_script(agents.main, agents.Agents, f"--betas 0.5 --seeds 1 --out {tmp_path}".split())
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "NO  FineTuned by Diverges, seed 0: stopped early at step 0" in printed


def test_steer_says_it(monkeypatch, tmp_path, prior, capsys):
    monkeypatch.setitem(OBJECTIVES, "trace", DIVERGES)
    prior.save_pretrained(tmp_path / "prior")
    args = replace(SHORT, prior=str(tmp_path / "prior"), prompts=("the film was",), out=tmp_path)
    folder = main(replace(args, objective="trace"))
    message = "Stopped early at step 0: the loss is nan"
    assert message in capsys.readouterr().out
    assert message in folder.report.read_text()
