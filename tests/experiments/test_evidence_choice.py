"""What `--reward` and `--constraint` may say, and what is made of it."""

import pytest
import torch

from experiments.evidence_choice import REWARDS, read_constraint, read_evidence, read_reward
from inference import Enumeration
from model import AlignmentModel, Constraint, WeightedSum
from tests.model.tiny import tiny


@pytest.mark.parametrize(
    ("text", "weight", "name", "argument"),
    [
        ("vader", 1.0, "vader", ""),
        ("0.5*vader", 0.5, "vader", ""),
        ("-2*length", -2.0, "length", ""),
        ("1e-2*length:8", 0.01, "length", "8"),
        ("regex:a*b:c", 1.0, "regex", "a*b:c"),
        ("2*regex:a*", 2.0, "regex", "a*"),
        ("classifier:some/path:POSITIVE", 1.0, "classifier", "some/path:POSITIVE"),
    ],
)
def test_rewards_are_read(text, weight, name, argument):
    assert read_reward(text)[1:4] == (weight, name, argument)


@pytest.mark.parametrize(
    ("text", "name", "at_least", "at_most"),
    [
        ("words:good", "words", 1.0, None),
        ("vader>=0.5", "vader", 0.5, None),
        ("vader>=-0.5", "vader", -0.5, None),
        ("words:war<=0", "words", None, 0.0),
        ("0.5*length<=2", "length", None, 2.0),
    ],
)
def test_constraints_are_read(text, name, at_least, at_most):
    found = read_constraint(text)
    assert (found.name, found.at_least, found.at_most) == (name, at_least, at_most)


@pytest.mark.parametrize(
    ("rewards", "constraints", "fault"),
    [
        (["taste"], [], r"--reward 'taste': expected \[WEIGHT\*\]NAME\[:ARGUMENT\] with a NAME of vader, words"),
        (["vader:1"], [], "vader takes no argument"),
        (["words"], [], "expected words:WORD,WORD"),
        (["words:"], [], "expected words:WORD,WORD"),
        (["x*vader"], [], "'x' is no number"),
        (["0*vader"], [], "a weight of 0 leaves nothing"),
        ([], ["vader>=much"], "'much' is no number"),
        ([], [], "there is no evidence"),
        (["vader", "vader"], [], "'vader' is given twice"),
    ],
)
def test_what_cannot_be_is_said(rewards, constraints, fault):
    with pytest.raises(SystemExit, match=fault):
        read_evidence(rewards, constraints)


@pytest.mark.parametrize(("text", "fault"), [("regex:(a", "no regular expression"), ("length:x", "number of tokens")])
def test_what_fails_when_made_is_named(prior, text, fault):
    with pytest.raises(SystemExit, match=fault):
        read_reward(text).evidence(prior)


def test_evidence_is_what_was_asked_for(prior, prompts):
    chosen = read_evidence(["words:good,bad", "-0.5*length"], ["regex:^very"])
    evidence = {name: choice.evidence(prior) for name, choice in chosen.items()}
    _, length, constraint = evidence.values()
    assert isinstance(length, WeightedSum)
    assert isinstance(constraint, Constraint)
    truth = Enumeration(AlignmentModel(prior, evidence, beta=1.0), prompts)
    texts = [row[0] for row in prior.decode(truth.support)]
    expected = [
        ("good" in text.split() or "bad" in text.split()) - 0.5 * len(text.split()) if text.startswith("very") else -torch.inf
        for text in texts
    ]
    possible = truth.log_evidence > -torch.inf
    assert possible[:, 0].tolist() == [value > -torch.inf for value in expected]
    found = [value for value, text in zip(truth.log_evidence[:, 0].tolist(), texts, strict=True) if "<end>" not in text]
    wanted = [value for value, text in zip(expected, texts, strict=True) if "<end>" not in text]
    assert found == pytest.approx(wanted)


def test_networks_are_loaded_from_where_the_argument_says(tmp_path):
    prior = tiny(dtype=torch.float32)
    tiny("llama", dtype=torch.float32).save_pretrained(tmp_path)
    prompts = prior.encode(["a"])
    response = prior(prompts).sample((4,))
    for name in ("fluency", "expert"):
        reward = REWARDS[name](prior, str(tmp_path))(prompts, response)
        assert reward.shape == (4, 1)
        assert (reward <= 0).all()


def test_every_reward_has_a_line_of_help():
    assert all(entry.summary for entry in REWARDS.values())
