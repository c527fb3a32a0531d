"""Names of rewards, constraints, factors and moments on the command line, and their errors."""

import pytest

from experiments.steer.choices import read_choices, read_constraint, read_moment, read_reward
from model import vader_sentiment
from tests.model.test_registry import MINE


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
    choice = read_reward(text)
    assert (choice.weight, choice.name, choice.argument) == (weight, name, argument)


@pytest.mark.parametrize(
    ("text", "name", "at_least", "at_most"),
    [
        ("words:good", "words", 1.0, None),
        ("vader>=0.5", "vader", 0.5, None),
        ("vader>=-0.5", "vader", -0.5, None),
        ("words:war<=0", "words", None, 0.0),
        ("0.5*length<=2", "length", None, 2.0),
        ("regex:(?<=not )good", "regex", 1.0, None),
        ("words:x=5>=1", "words", 1.0, None),
    ],
)
def test_constraints_are_read(text, name, at_least, at_most):
    constraint = read_constraint(text)
    assert (constraint.name, constraint.at_least, constraint.at_most) == (name, at_least, at_most)


@pytest.mark.parametrize(
    ("text", "reward", "mean"),
    [
        ("words:good=0.5", "words:good", 0.5),
        ("-1*regex:(?=g)a=-2", "-1*regex:(?=g)a", -2.0),
        ("words:x=5=0.3", "words:x=5", 0.3),
    ],
)
def test_moments_are_read(text, reward, mean):
    assert read_moment(text) == read_reward(reward)._replace(option="--moment", mean=mean)


FACTOR = "marginal-likelihood"
IMPOSSIBLE = {
    "rewards": [
        (["taste"], r"--reward 'taste': expected \[WEIGHT\*\]NAME\[:ARGUMENT\] .* vader, words"),
        (["vader:1"], "vader takes no argument"),
        (["vader:"], "expected vader$"),
        (["length:"], r"expected length\[:TOKENS\]"),
        (["words"], "expected words:WORD,WORD"),
        (["words:"], "expected words:WORD,WORD"),
        (["x*vader"], "'x' is no number"),
        (["nan*vader"], r"--reward 'nan\*vader': 'nan' is no number"),
        (["0*vader"], "a weight of 0 leaves nothing"),
        (["-1e-320*vader"], "a weight of -9.99989e-321 leaves nothing"),
        (["vader", "vader"], r"--reward 'vader' is given twice: .* '2\*vader'"),
        (["-0.5*regex:a*"] * 2, r"is given twice: use one of twice the weight, '-1.0\*regex:a\*'"),
        ([], "without a likelihood"),
    ],
    "constraints": [
        (["taste>=1"], "--constraint 'taste>=1': expected .*NAME"),
        (["vader>=much"], "--constraint 'vader>=much': 'much' is no number"),
        (["vader>=inf"], "'inf' is no number"),
        (["vader==0.5"], "expected >= or <="),
        (["words:good>3"], "--constraint 'words:good>3': expected >= or <= before a threshold"),
        (["words:x=5"], "or, for a word that has '=5' in it, 'words:x=5>=1'"),
        (["words:good", "words:good>=1"], "'words:good>=1' is given twice"),
    ],
    "factors": [
        (
            ["taste:x"],
            rf"expected NAME:ARGUMENT with a NAME of {FACTOR}, .* or \[WEIGHT\*\]NAME.* of vader",
        ),
        ([FACTOR], f"expected {FACTOR}:RUN/reward"),
        ([f"{FACTOR}:"], f"expected {FACTOR}:RUN/reward"),
        ([f"2*{FACTOR}:x"], f"expected NAME:ARGUMENT with a NAME of {FACTOR}"),
    ],
    "moments": [
        (["words:good"], "--moment 'words:good': expected REWARD=MEAN, as in words:film=0.5"),
        (["taste=1"], "--moment 'taste=1': expected .*NAME"),
        (["vader=half"], "--moment 'vader=half': 'half' is no number"),
        (["vader=nan"], "'nan' is no number"),
        (["vader=0.1", "vader=0.2"], "'vader' is given twice: leave one out"),
    ],
}


@pytest.mark.parametrize(
    ("option", "texts", "fault"),
    [(option, *case) for option, cases in IMPOSSIBLE.items() for case in cases],
)
def test_impossible_choice_is_refused(option, texts, fault):
    with pytest.raises(SystemExit, match=fault):
        read_choices(**{"rewards": [], option: texts})


@pytest.mark.parametrize(
    ("choices", "fault"),
    [
        ((["vader"], [], ["vader"]), r"--factor 'vader' is a --reward too: .* '1\*vader'"),
        ((["2*vader"], [], ["2*vader"]), r"is a --reward too: .* '2E\+0\*vader'"),
        ((["regex:a>=1"], ["regex:a"]), "--constraint 'regex:a>=1' is a --reward too"),
        (([], ["regex:a"], ["regex:a>=1"]), "--factor 'regex:a>=1' is a --constraint too"),
    ],
)
def test_one_name_for_two_parts_of_a_model_is_refused(choices, fault):
    with pytest.raises(SystemExit, match=fault):
        read_choices(*choices)


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
def test_reward_that_cannot_be_built_is_named(prior, text, fault):
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
    imports = "from __future__ import annotations\nimport dataclasses\nfrom beside import TENTH\n"
    record = "\n@dataclasses.dataclass\nclass Kept:\n    number: int\n"
    (tmp_path / "modern.py").write_text(imports + MINE + record)
    modern = read_reward(f"function:{tmp_path}/modern.py:shortness").reward(prior)
    assert modern(prompts, response).equal(of_file(prompts, response))
    of_module = read_reward("2*function:model.rewards.vader:vader_sentiment").reward(prior)
    assert of_module(prompts, response).flatten().tolist() == pytest.approx(
        [2 * score for score in vader_sentiment(texts)]
    )
    of_tokens = read_reward(f"token-function:{tmp_path}/mine.py:endless").reward(prior)
    is_token = prior.space.is_token(response)
    assert of_tokens(prompts, response).tolist() == is_token.all(-1).double().tolist()
    assert of_tokens.upper_bound == 1.0


def test_a_reward_may_be_a_constraint_and_a_moment_too():
    constraints = ["words:good", "regex:a>3"]
    factors = [f"{FACTOR}:RUN/reward", "1*words:good"]
    chosen = read_choices(["words:good"], constraints, factors, ["words:good=0.5"])
    texts = ["words:good", "words:good>=1", "regex:a>3>=1", *factors, "words:good"]
    assert [choice.text for choice in chosen] == texts
    assert (chosen[3].name, chosen[3].argument) == (FACTOR, "RUN/reward")
