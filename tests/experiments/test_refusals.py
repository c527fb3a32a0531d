"""Refusals of scripts beyond the ranges of single numbers, before they have spent anything."""

import pytest

from experiments.agents import __main__ as agents
from experiments.best_of_n import __main__ as best_of_n
from experiments.guide_zoo.__main__ import GuideZoo
from experiments.guide_zoo.__main__ import main as guide_zoo
from experiments.shared.argument_types import chosen
from experiments.shared.training import build_guide
from experiments.shared.workers import _run_in_worker
from model.common.checks import positive
from tests.experiments.scripts import NAMES, arguments_of, main_of


def takes_names(script):
    return "only" in arguments_of(script).__dataclass_fields__


def test_only_takes_each_name_once_and_leaves_something_to_run(tmp_path):
    assert chosen(("c", "a"), ("a", "b", "c")) == ["a", "c"]
    assert chosen((), ("a", "b")) == ["a", "b"]
    with pytest.raises(SystemExit, match="--only has 'a' twice"):
        chosen(("a", "b", "a"), ("a", "b"))
    with pytest.raises(SystemExit, match="--only and --worlds leave nothing to run"):
        guide_zoo(GuideZoo(worlds=("two-modes",), only=("lora-1",), out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script", [name for name in NAMES if takes_names(name)])
def test_an_unknown_name_is_refused_beside_the_known_ones(script):
    with pytest.raises(SystemExit, match=r"--only has 'nonsense', expected one of: .*, "):
        main_of(script)(arguments_of(script)(only=("nonsense",)))


@pytest.mark.parametrize(
    ("sizes", "draws", "message"),
    [
        ((1,), 4096, "--sizes has only 1"),
        ((2, 29), 64, "--sizes has 29, expected at most 28 with --draws 64"),
    ],
)
def test_best_of_n_needs_groups_that_the_draws_can_make(sizes, draws, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        best_of_n.main(best_of_n.BestOfN(sizes=sizes, draws=draws, out=tmp_path / "runs"))
    best_of_n.check((2, 28), 64)
    assert not (tmp_path / "runs").exists()


def test_agents_need_a_prompt_after_which_each_speaks(monkeypatch, prior, tmp_path):
    monkeypatch.setattr(agents, "grammar_prior", lambda *_, **__: prior)
    with pytest.raises(
        SystemExit,
        match="--prompt 'good': the speaker enthusiast says nothing of 3 tokens after it",
    ):
        agents.main(agents.Agents(prompt="good", out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_what_a_worker_refuses_is_a_refusal_of_the_script_and_its_faults_are_faults():
    with pytest.raises(SystemExit, match="-1: seconds is -1, expected a positive"):
        _run_in_worker(lambda job: positive("seconds", job), -1)
    with pytest.raises(KeyError):
        _run_in_worker({}.__getitem__, "job")


def test_noise_that_float32_cannot_hold_is_refused(prior, prompts):
    with pytest.raises(SystemExit, match=r"--guide mixture: noise is 1e\+300, expected"):
        build_guide("mixture", {"noise": 1e300}, prior, prompts)
