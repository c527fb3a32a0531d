"""Early stops of a fit are printed by every script, and a claim does not hold after one."""

from functools import partial

import pytest

from experiments import (
    binary_reward,
    collapse_text,
    distillation,
    distillation_text,
)
from experiments.agents import __main__ as agents
from experiments.collapse import __main__ as collapse
from experiments.distribution_matching import __main__ as distribution_matching
from experiments.distribution_matching.tasks import PURE
from experiments.shared.training import train
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from guides import FineTuned
from inference import OBJECTIVES
from inference.svi.early_stops import early_stops
from model import AlignmentModel, Pattern, TextReward
from tests.experiments.diverges import DIVERGES, Diverges

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
        train(
            FineTuned(model.prior),
            model,
            prompts,
            OBJECTIVES["trace"](num_particles=2),
            1,
        )
    assert none == []


def check_report(findings, printed, guide="FineTuned"):
    assert not all(finding.held for finding in findings)
    assert f"NO  {guide} by Diverges, seed 0: stopped early at step 0" in printed


def test_agents_report_it(monkeypatch, tmp_path, capsys, prior):
    monkeypatch.setattr(agents, "LeaveOneOut_ELBO", Diverges)
    monkeypatch.setattr(agents, "grammar_prior", lambda *_, **__: prior)
    check_report(
        agents.main(agents.Agents(betas=(0.5,), seeds=1, out=tmp_path)), capsys.readouterr().out
    )


def test_binary_reward_reports_it(monkeypatch, capsys, prior):
    monkeypatch.setattr(binary_reward, "LeaveOneOut_ELBO", Diverges)
    monkeypatch.setattr(binary_reward, "grammar_prior", lambda **_: prior)
    arguments = binary_reward.BinaryReward(steps=1, seeds=1)
    check_report(binary_reward.main(arguments), capsys.readouterr().out)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [(collapse, collapse.Collapse), (collapse_text, collapse_text.CollapseText)],
)
def test_collapse_reports_it(script, arguments, monkeypatch, tmp_path, capsys, prior):
    monkeypatch.setattr(script, "RL", dict.fromkeys(script.RL, Diverges))
    for name in {"grammar_prior", "load_prior"} & vars(script).keys():
        monkeypatch.setattr(script, name, lambda *_, **__: prior)
    monkeypatch.chdir(tmp_path)
    check_report(script.main(arguments(steps=1, draws=16)), capsys.readouterr().out)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (distillation, partial(distillation.Distillation, seeds=1)),
        (distillation_text, distillation_text.DistillationText),
    ],
)
def test_distillation_reports_it(script, arguments, monkeypatch, tmp_path, capsys, prior):
    monkeypatch.setattr(script, "LeaveOneOut_ELBO", Diverges)
    for name in {"grammar_prior", "load_prior"} & vars(script).keys():
        monkeypatch.setattr(script, name, lambda *_, **__: prior)
    check_report(script.main(arguments(steps=1, out=tmp_path)), capsys.readouterr().out)


@pytest.mark.slow
def test_distribution_matching_reports_it(monkeypatch, tmp_path, capsys):
    script, small = distribution_matching, {"max_new_tokens": 3, "particles": 4, "steps": 1}
    monkeypatch.setitem(script.tasks.METHODS, PURE, Diverges)
    args = script.DistributionMatching(**small, draws=512, samples=32, out=tmp_path)
    check_report(script.main(args), capsys.readouterr().out, guide="Twisted")


def test_steer_says_it(monkeypatch, tmp_path, prior, capsys):
    monkeypatch.setitem(OBJECTIVES, "trace", DIVERGES)
    prior.save_pretrained(tmp_path / "prior")
    small = {
        "steps": 4,
        "particles": 4,
        "samples": 20,
        "prior_draws": 40,
        "threads": 1,
        "max_new_tokens": 3,
    }
    args = Steer(
        prior=str(tmp_path / "prior"),
        prompts=("the film was",),
        objective="trace",
        out=tmp_path,
        **small,
    )
    folder = main(args)
    message = "Stopped early at step 0: the loss is nan"
    assert message in capsys.readouterr().out
    assert message in folder.report.read_text()
