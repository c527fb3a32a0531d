"""Registry of rewards and factors: every entry is a reward or a factor, with an example here."""

import pytest
import torch

from model.likelihood import check_values
from model.preferences import LinearHead, PriorFeatures, RewardPosterior, StandardisedFeatures
from model.registry import FACTORS, REWARDS
from tests.model.rewards.test_networks import bert
from tests.model.tiny import tiny, tiny_tokenizer

EXAMPLES = {
    "vader": "",
    "words": "a,c",
    "regex": "b$",
    "accuracy": "solution",
    "format": "a.*",
    "repetition": "2",
    "length-limit": "3,2",
    "function": "{functions}/mine.py:shortness",
    "token-function": "{functions}/mine.py:endless",
    "length": "2",
    "classifier": "{classifier}:good",
    "classifier-logit": "{classifier}:bad",
    "preferences": "{preferences}:minimum",
    "fluency": "{causal}",
    "expert": "{causal}",
    "marginal-likelihood": "{preferences}",
    "answer-likelihood": "solution",
}
"""Argument of each reward and factor."""


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


@pytest.mark.parametrize("name", [*REWARDS, *FACTORS])
def test_every_entry_scores_responses_one_by_one(name, folders):
    entry = (REWARDS | FACTORS)[name]
    assert entry.summary
    prior = tiny(dtype=torch.float32)
    prompts = prior.encode(["a b", "c"], columns={"solution": ["a", "b c"]})
    reward = entry(prior, EXAMPLES[name].format(**folders), beta=0.5)
    response = prior(prompts).sample((6,))
    values = check_values(name, reward(prompts, response), response.shape[:-1])
    if getattr(reward, "upper_bound", None) is not None:
        assert (values <= reward.upper_bound + 1e-6).all()
    for n in range(2):
        alone = reward(prompts[[n]], response[2, [n]])
        assert alone.shape == (1,)
        assert alone.item() == pytest.approx(values[2, n].item(), abs=1e-4)


def test_the_marginal_likelihood_is_no_reward(folders):
    argument = f"{folders['preferences']}:marginal-likelihood"
    with pytest.raises(ValueError, match="expected --factor marginal-likelihood:"):
        REWARDS["preferences"](tiny(), argument)
