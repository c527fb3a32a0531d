"""Impossible arguments of guides are refused by name, where the guide is made."""

import pytest
import torch

from guides import (
    FineTuned,
    Fixed,
    LoRA,
    MeanField,
    NGram,
    Recurrent,
    SoftPrompt,
    Tabular,
    Tempered,
    Twisted,
    mixture_of,
)
from guides.mixture import Mixture
from guides.saved import load_guide
from guides.shards import shard
from guides.soft_prompt import soft_prompt_of
from guides.twisted import TwistHead
from tests.model.tiny import tiny, tiny_tokenizer
from tests.refusals import COUNT, Call, assert_refuses

PRIOR = {"prior": tiny()}
BOTH = PRIOR | {"prompts": tiny().encode(["a", "b"])}
OTHERS = {"prior": [tiny().network, tiny_tokenizer()]}
SOURCE = {"source": ["model/film_reviews", None, tiny().network, FineTuned]}
SIZE = [0, -1, float("nan"), float("inf"), "3", True, [], 10**400]
DTYPE = {"dtype": ["int8", 16]}
CALLS: dict[str, Call] = {
    "FineTuned": (FineTuned, PRIOR | {"subset": "last-layers"}, OTHERS | DTYPE),
    "LoRA": (LoRA, PRIOR, OTHERS | {"rank": COUNT, "alpha": SIZE, "target_modules": [["c_attn"]]}),
    "SoftPrompt": (SoftPrompt, PRIOR, OTHERS | {"text": [["a"]]}),
    "Twisted": (Twisted, PRIOR, OTHERS | {"head": [torch.tanh]}),
    "TwistHead": (TwistHead, PRIOR | {"hidden_size": 2}, OTHERS),
    "Recurrent": (Recurrent, PRIOR, OTHERS),
    "NGram": (NGram, PRIOR, OTHERS),
    "MeanField": (MeanField, BOTH, OTHERS),
    "Tabular": (Tabular, BOTH, OTHERS),
    "mixture_of": (mixture_of, BOTH | {"component": "recurrent"}, OTHERS),
    "Mixture": (Mixture, {}, {"guides": [Recurrent(tiny()), None, 3]}),
    "forward": (Recurrent(tiny()).forward, {"prompts": BOTH["prompts"]}, {}),
    "distribution": (Twisted(tiny()).distribution, {"prompts": BOTH["prompts"]}, {}),
    "Fixed": (Fixed, {}, SOURCE),
    "Tempered": (Tempered, {"source": FineTuned(tiny())}, SOURCE | {"temperature": SIZE}),
    "soft_prompt_of": (soft_prompt_of, BOTH, OTHERS),
    "save_pretrained": (Recurrent(tiny()).save_pretrained, {}, {}),
    "load_pretrained": (Recurrent(tiny()).load_pretrained, {}, {}),
    "load_guide": (load_guide, PRIOR | {"folder": "none"}, {"folder": ["none"]}),
    "shard": (shard, {"guide": Recurrent(tiny())}, {}),
    "jitter": (Recurrent(tiny()).jitter, {"noise": 0.1}, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_impossible_value_is_refused_by_name(name: str) -> None:
    assert_refuses(*CALLS[name])


def test_the_error_says_how_to_make_a_prior_and_prompts() -> None:
    with pytest.raises(TypeError, match=r"^prior is a str, expected a LanguageModel: .*from_pretr"):
        LoRA("model/film_reviews")
    with pytest.raises(TypeError, match=r"^prompts is a str, expected a Prompts: `prior\.encode"):
        MeanField(tiny(), "a")


def test_noise_that_is_no_size_leaves_the_parameters() -> None:
    guide = Recurrent(tiny())
    before = [parameter.clone() for parameter in guide.parameters()]
    with pytest.raises(ValueError, match="noise is nan"):
        guide.jitter(float("nan"))
    assert all(torch.equal(*pair) for pair in zip(before, guide.parameters(), strict=True))
