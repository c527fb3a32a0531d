"""What `--reward` and `--constraint` may say, and what is made of it."""

import pytest
import torch

from experiments.steer.posterior_options import (
    matched,
    read_choices,
    read_constraint,
    read_moment,
    read_reward,
)
from inference import Enumeration
from model import AlignmentModel, Bounded, Constraint, WeightedSum, vader_sentiment
from model.likelihood import check_values
from model.preferences import LinearHead, PriorFeatures, RewardPosterior, StandardisedFeatures
from model.registry import REWARDS
from tests.model.rewards.test_networks import bert
from tests.model.tiny import tiny, tiny_tokenizer


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
        ("regex:(?<=not )good", "regex", 1.0, None),
    ],
)
def test_constraints_are_read(text, name, at_least, at_most):
    found = read_constraint(text)
    assert (found.name, found.at_least, found.at_most) == (name, at_least, at_most)


@pytest.mark.parametrize(
    ("text", "reward", "mean"),
    [("words:good=0.5", "words:good", 0.5), ("-1*regex:(?=g)a=-2", "-1*regex:(?=g)a", -2.0)],
)
def test_moments_are_read(text, reward, mean):
    assert read_moment(text) == read_reward(reward)._replace(mean=mean)


@pytest.mark.parametrize(
    ("moments", "fault"),
    [
        (["words:good"], "--moment 'words:good': expected REWARD=MEAN, as in words:film=0.5"),
        (["taste=1"], "--moment 'taste=1': expected .*NAME"),
        (["vader=half"], "--moment 'vader=half': 'half' is no number"),
        (["vader=nan"], "'nan' is no number"),
        (["vader=0.1", "vader=0.2"], "'vader' is given twice: leave one out"),
    ],
)
def test_moments_that_cannot_be_are_said(moments, fault):
    with pytest.raises(SystemExit, match=fault):
        read_choices([], [], moments)


def test_moments_are_met_and_unattainable_ones_exit(prior, prompts, capsys):
    base = AlignmentModel(prior, read_reward("vader").reward(prior), beta=0.5)
    moments = [read_moment("length=2.2"), read_moment("words:not=0.3")]
    model = matched(base, moments, prompts, num_draws=1000, seed=0)
    assert "length: " in capsys.readouterr().out
    truth = Enumeration(model, prompts)
    for moment in moments:
        values = moment.reward(prior)(prompts, truth.support)
        assert (truth.log_posterior.exp() * values).sum(0).mean().item() == pytest.approx(
            moment.mean, abs=1e-8
        )
    with pytest.raises(
        SystemExit, match=r"--moment: no finite multipliers give the moments length 7 \(reached \d"
    ):
        matched(base, [read_moment("length=7")], prompts, num_draws=1000, seed=0)


@pytest.mark.parametrize(
    ("rewards", "constraints", "fault"),
    [
        (
            ["taste"],
            [],
            r"--reward 'taste': expected \[WEIGHT\*\]NAME\[:ARGUMENT\] with a NAME of vader, words",
        ),
        (["vader:1"], [], "vader takes no argument"),
        (["vader:"], [], "expected vader$"),
        (["length:"], [], r"expected length\[:TOKENS\]"),
        (["words"], [], "expected words:WORD,WORD"),
        (["words:"], [], "expected words:WORD,WORD"),
        (["x*vader"], [], "'x' is no number"),
        (["0*vader"], [], "a weight of 0 leaves nothing"),
        (["-1e-320*vader"], [], "a weight of -9.99989e-321 leaves nothing"),
        ([], ["vader>=much"], "--constraint 'vader>=much': 'much' is no number"),
        ([], ["vader>=inf"], "'inf' is no number"),
        ([], ["words:good>3"], "--constraint 'words:good>3': expected >= or <= before a threshold"),
        ([], ["vader==0.5"], "expected >= or <="),
        (["nan*vader"], [], "--reward 'nan\\*vader': 'nan' is no number"),
        ([], ["words:good", "words:good>=1"], "'words:good>=1' is given twice"),
        ([], ["taste>=1"], "--constraint 'taste>=1': expected .*NAME"),
        ([], [], "without evidence"),
        (["vader", "vader"], [], "--reward 'vader' is given twice"),
    ],
)
def test_what_cannot_be_is_said(rewards, constraints, fault):
    with pytest.raises(SystemExit, match=fault):
        read_choices(rewards, constraints)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("regex:(a", "no regular expression"),
        ("length:x", "number of tokens"),
        (
            "function:shortness",
            "expected FILE.py:NAME or MODULE:NAME after the colon, got 'shortness'",
        ),
        ("function:.x:f", "cannot import .x: TypeError"),
        ("function:nowhere.py:shortness", "No such file or directory: '.*nowhere.py'"),
        (
            "function:no.such:shortness",
            "cannot import no.such: ModuleNotFoundError: No module named 'no'",
        ),
        (
            "function:model.rewards.vader:shortness",
            "expected a function 'shortness' in model.rewards.vader, which has .*vader_",
        ),
    ],
)
def test_what_fails_when_made_is_named(prior, text, fault):
    with pytest.raises(SystemExit, match=fault):
        read_reward(text).reward(prior)


def test_functions_of_a_file_or_a_module_are_rewards(prior, prompts, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    response = prior(prompts).sample((5,))
    texts = [text for row in prior.decode(response, prompts) for text in row]
    of_file = read_reward(f"function:{tmp_path}/mine.py:shortness").reward(prior)
    assert of_file(prompts, response).flatten().tolist() == pytest.approx(
        [-len(text) / 10 for text in texts]
    )
    (tmp_path / "beside.py").write_text("TENTH = 0.1")
    modern = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside import TENTH\n"
        + MINE
    )
    (tmp_path / "modern.py").write_text(modern + "\n@dataclass\nclass Kept:\n    number: int\n")
    assert (
        read_reward(f"function:{tmp_path}/modern.py:shortness")
        .reward(prior)(prompts, response)
        .equal(of_file(prompts, response))
    )
    of_module = read_reward("2*function:model.rewards.vader:vader_sentiment").reward(prior)
    assert of_module(prompts, response).flatten().tolist() == pytest.approx(
        [2 * score for score in vader_sentiment(texts)]
    )
    of_tokens = read_reward(f"token-function:{tmp_path}/mine.py:endless").reward(prior)
    is_token = prior.space.is_token(response)
    assert of_tokens(prompts, response).tolist() == is_token.all(-1).double().tolist()
    assert of_tokens.upper_bound == 1.0


def test_a_reward_may_be_a_constraint_and_a_moment_too():
    chosen = read_choices(["words:good"], ["words:good", "regex:a>3"], ["words:good=0.5"])
    assert [choice.text for choice in chosen] == [
        "words:good",
        "words:good>=1",
        "regex:a>3>=1",
        "words:good",
    ]


def test_evidence_is_what_was_asked_for(prior, prompts):
    chosen = read_choices(["words:good,bad", "-0.5*length"], ["regex:^very"])
    pieces = {choice.text: choice.piece(prior) for choice in chosen}
    *rewards, _ = pieces.items()
    length, constraint = pieces["-0.5*length"], pieces["regex:^very>=1"]
    assert isinstance(length, WeightedSum)
    assert isinstance(constraint, Constraint)
    model = AlignmentModel(prior, dict(rewards), 1.0, {"very": constraint})
    truth = Enumeration(model, prompts)
    assert not read_reward("regex:^Very").reward(prior)(prompts, truth.support).any()
    texts = [row[0] for row in prior.decode(truth.support)]
    expected = [
        ("good" in text.split() or "bad" in text.split()) - 0.5 * len(text.split())
        if text.startswith("very")
        else -torch.inf
        for text in texts
    ]
    possible = truth.log_likelihood > -torch.inf
    assert possible[:, 0].tolist() == [value > -torch.inf for value in expected]
    found = [
        value
        for value, text in zip(truth.log_likelihood[:, 0].tolist(), texts, strict=True)
        if "<end>" not in text
    ]
    wanted = [value for value, text in zip(expected, texts, strict=True) if "<end>" not in text]
    assert found == pytest.approx(wanted)


# Every registered reward; one without an example here fails

EXAMPLES = {
    "vader": "",
    "words": "a,c",
    "regex": "b$",
    "function": "{functions}/mine.py:shortness",
    "token-function": "{functions}/mine.py:endless",
    "length": "2",
    "classifier": "{classifier}:good",
    "classifier-logit": "{classifier}:bad",
    "preferences": "{preferences}:minimum",
    "fluency": "{causal}",
    "expert": "{causal}",
}


MINE = """
LIMIT = 0.0

def shortness(texts):
    return [min(LIMIT, -len(text) / 10) for text in texts]

def endless(ids, is_token):
    return is_token.all(-1).double()

endless.upper_bound = 1.0
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Local checkpoints in Hugging Face format, and a reward inferred from preferences."""
    paths = {
        name: tmp_path_factory.mktemp(name)
        for name in ("classifier", "causal", "preferences", "functions")
    }
    (paths["functions"] / "mine.py").write_text(MINE)
    bert().save_pretrained(paths["classifier"])
    tiny_tokenizer(pad_token="<pad>").save_pretrained(paths["classifier"])
    tiny("llama", dtype=torch.float32).save_pretrained(paths["causal"])
    features = StandardisedFeatures.fit(
        PriorFeatures(tiny(dtype=torch.float32)), ["a", "b c", "c a"]
    )
    head = LinearHead(features.num_features)
    RewardPosterior(head, features, torch.randn(3, head.num_weights, dtype=torch.float64)).save(
        paths["preferences"]
    )
    return paths


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_evidence(name, folders):
    assert REWARDS[name].summary
    prior = tiny(dtype=torch.float32)
    prompts = prior.encode(["a b", "c"])
    text = f"{name}:{EXAMPLES[name].format(**folders)}" if EXAMPLES[name] else name
    reward = read_reward(text).reward(prior)
    response = prior(prompts).sample((6,))
    values = check_values(name, reward(prompts, response), response.shape[:-1])
    if isinstance(reward, Bounded) and reward.upper_bound is not None:
        assert (values <= reward.upper_bound + 1e-6).all()
    for n in range(2):
        alone = reward(prompts[[n]], response[2, [n]])
        assert alone.shape == (1,)
        assert alone.item() == pytest.approx(values[2, n].item(), abs=1e-4)
