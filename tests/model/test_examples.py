"""Examples in the docstrings of central classes run as they stand."""

import inspect
import re
import textwrap

import pytest
import torch

import model
from inference import REWARD_INFERENCE
from model.preferences import LinearHead, PriorFeatures, StandardisedFeatures, UncertainReward
from tests.model.rewards.test_networks import bert
from tests.model.tiny import tiny_tokenizer

CLASSES = [
    model.AlignmentModel,
    model.BradleyTerry,
    model.Constraint,
    model.LanguageModel,
    model.PromptData,
    model.Prompts,
    model.ResponseDistribution,
    model.SequenceClassifier,
    model.TextJudge,
    model.TextReward,
    model.WeightedSum,
    UncertainReward,
]
TEXTS = ["the film was good", "the plot was dull", "the film was bad"]


def example(text: str) -> str:
    """The first indented block of a docstring, before its sections."""
    prose = re.split(r"^(?:Args|Attributes|Raises):$", text, flags=re.MULTILINE)[0]
    block = re.search(r"(?:^ {4}.*\n)+", prose, re.MULTILINE)
    assert block is not None
    return textwrap.dedent(block[0])


@pytest.fixture(scope="module")
def names(prior, prompts):
    """Everything that an example may use, by name."""
    features = StandardisedFeatures.fit(PriorFeatures(prior), TEXTS)
    rows = [{"prompt": "", "chosen": TEXTS[0], "rejected": text} for text in TEXTS[1:]]
    return {
        **vars(model),
        "LinearHead": LinearHead,
        "REWARD_INFERENCE": REWARD_INFERENCE,
        "UncertainReward": UncertainReward,
        "features": features,
        "posterior": model.RewardPosterior(LinearHead(32), features, torch.ones(2, 32)),
        "preferences": model.read_preferences(rows),
        "prior": prior,
        "prompts": prompts,
        "reward": model.TextReward(model.vader_sentiment, prior),
        "sentiment": model.TextReward(model.vader_sentiment, prior),
    }


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_example_of_a_class_runs(kind, names, tmp_path):
    code = example(inspect.getdoc(kind))
    assert kind.__name__ in code or "prior(prompts)" in code or "prior.encode" in code
    if "sentiment/" in code:
        network = bert()
        network.config.id2label = {0: "negative", 1: "neutral", 2: "positive"}
        network.config.label2id = {name: i for i, name in network.config.id2label.items()}
        network.save_pretrained(tmp_path)
        tiny_tokenizer(pad_token="<pad>").save_pretrained(tmp_path)
        code = code.replace("sentiment/", str(tmp_path))
    exec(compile(code, kind.__name__, "exec"), dict(names))
