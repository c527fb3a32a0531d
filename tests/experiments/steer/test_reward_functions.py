"""Reward functions of other libraries in a run of `steer`, and a prompt to which none applies."""

import json
import math
from dataclasses import replace

import pytest

from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from tests.experiments.steer.test_main import SHORT

FILE = """
def broken(texts):
    return [float("nan") for text in texts]

async def verifiers(prompt, completion):
    return None if prompt == "the" else float("good" in completion)
"""


@pytest.fixture
def args(grammar_folder, tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    prompts = ("the film was", "the")
    return replace(SHORT, prior=str(grammar_folder), prompts=prompts, out=tmp_path, steps=2)


def with_reward(args, name):
    return replace(args, reward=(f"function:{args.out}/mine.py:{name}",))


def test_a_reward_that_is_no_number_is_blamed_and_not_the_objective(args):
    with pytest.raises(SystemExit, match=r"^reward 'broken' returned nan for the text"):
        main(with_reward(args, "broken"))


def test_mean_reward_of_a_run_leaves_out_a_prompt_without_one(args, capsys):
    folder = main(replace(with_reward(args, "verifiers"), samples=400))
    printed = capsys.readouterr().out
    note = "E[r] is a mean over 1 of 2 prompts: no reward applies to the others."
    assert note in printed
    assert "  no reward  the" in printed
    measurements = json.loads(folder.measurements.read_text())
    assert note in measurements["notes"]
    guide = measurements["guide"]
    rate, nats = guide["reward"], guide["log_likelihood"]  # over both prompts, 0 for the second
    error = math.hypot(rate["standard_error"], 2 * args.beta * nats["standard_error"])
    assert abs(rate["value"] - 2 * args.beta * nats["value"]) < 4 * error < rate["value"] / 3


def test_draws_of_a_prompt_without_a_reward_have_none(args, capsys):
    sampling = replace(with_reward(args, "verifiers"), sample="importance", budget=64)
    folder = main(sampling)
    assert "E[r over 1 of 2 prompts] of the posterior" in capsys.readouterr().out
    lines = (folder.path / "draws.jsonl").read_text().splitlines()
    rewards = {True: set(), False: set()}
    for record in map(json.loads, lines):
        rewards[record["prompt"] == "the"].add(record["reward"])
    assert rewards[True] == {None}
    assert 1.0 in rewards[False] <= {0.0, 1.0}


def test_accuracy_by_a_column_of_a_data_set(args, capsys):
    rows = [
        {"prompt": "the film was", "solution": "good"},
        {"prompt": "the film was", "solution": "bad"},
        {"prompt": "the", "solution": None},
    ]
    path = args.out / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    folder = main(
        replace(args, prompts=Steer.prompts, dataset=str(path), reward=("accuracy:solution",))
    )
    printed = capsys.readouterr().out
    assert "with columns solution" in printed
    assert "E[r] is a mean over 2 of 3 prompts" in printed
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for record in steps:  # the log likelihood is 0 at the third prompt
        assert record["reward"] * 2 / 3 / args.beta == pytest.approx(record["log_likelihood"])
