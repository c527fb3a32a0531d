"""Arguments that cannot make a guide are refused where the guide is made, by their names."""

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
from guides.twisted import TwistHead
from model import LanguageModel, Prompts
from tests.model.tiny import tiny, tiny_tokenizer

NO_COUNT = [0, -1, 1.5, float("nan"), "3", True, None, 10**12]
NO_SCALE = [0, -1, float("nan"), float("inf"), "3", True, [], 10**400]


@pytest.fixture(scope="module")
def prior() -> LanguageModel:
    return tiny()


@pytest.fixture(scope="module")
def prompts(prior: LanguageModel) -> Prompts:
    return prior.encode(["a", "b"])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (
            lambda prior, _, value: FineTuned(prior, subset="last-layers", num_layers=value),
            "num_layers",
        ),
        (lambda prior, _, value: LoRA(prior, rank=value), "rank"),
        (lambda prior, _, value: SoftPrompt(prior, num_virtual_tokens=value), "num_virtual_tokens"),
        (lambda prior, _, value: Twisted(prior, hidden_size=value), "hidden_size"),
        (lambda prior, _, value: TwistHead(prior, hidden_size=value), "hidden_size"),
        (lambda prior, _, value: Twisted(prior, top_k="none" if value is None else value), "top_k"),
        (lambda prior, _, value: Recurrent(prior, embedding_size=value), "embedding_size"),
        (lambda prior, _, value: Recurrent(prior, hidden_size=value), "hidden_size"),
        (lambda prior, _, value: Recurrent(prior, num_layers=value), "num_layers"),
        (lambda prior, _, value: NGram(prior, n=value), "n"),
        (
            lambda prior, prompts, value: mixture_of(
                prior, prompts, component="recurrent", num_components=value
            ),
            "num_components",
        ),
    ],
)
def test_counts_are_whole_numbers_from_one_up(make, name, prior, prompts) -> None:
    for value in NO_COUNT:
        with pytest.raises(
            ValueError,
            match=rf"^{name} is .*, expected (a whole number of at least 1|between 1 and)",
        ):
            make(prior, prompts, value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda prior, _, value: LoRA(prior, alpha=value), "alpha"),
        (lambda prior, _, value: Tempered(prior, temperature=value), "temperature"),
    ],
)
def test_scales_are_positive_and_finite(make, name, prior, prompts) -> None:
    for value in NO_SCALE:
        with pytest.raises(ValueError, match=f"^{name} is .*, expected a "):
            make(prior, prompts, value)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), "3", None])
def test_noise_is_a_size(noise, prior, prompts) -> None:
    with pytest.raises(ValueError, match=r"^noise is .*, expected a finite number of at least 0"):
        mixture_of(prior, prompts, component="recurrent", noise=noise)
    guide = Recurrent(prior)
    before = [parameter.clone() for parameter in guide.parameters()]
    with pytest.raises(ValueError, match="noise is"):
        guide.jitter(noise)
    assert all(torch.equal(*pair) for pair in zip(before, guide.parameters(), strict=True))


@pytest.mark.parametrize(
    "make",
    [
        FineTuned,
        LoRA,
        SoftPrompt,
        Twisted,
        lambda prior: TwistHead(prior, hidden_size=2),
        Recurrent,
        NGram,
        lambda prior: MeanField(prior, tiny().encode(["a"])),
        lambda prior: Tabular(prior, tiny().encode(["a"])),
        lambda prior: mixture_of(prior, tiny().encode(["a"])),
    ],
)
@pytest.mark.parametrize(
    "prior", ["model/film_reviews", None, tiny().network, tiny_tokenizer()], ids=type
)
def test_a_prior_is_a_language_model(make, prior) -> None:
    with pytest.raises(
        TypeError,
        match=rf"^prior is a {type(prior).__name__}, expected a LanguageModel: .*from_pretrained",
    ):
        make(prior)


@pytest.mark.parametrize("make", [MeanField, Tabular, mixture_of])
@pytest.mark.parametrize("value", ["a", ["a", "b"], None])
def test_prompts_are_encoded(make, value, prior) -> None:
    with pytest.raises(
        TypeError, match=rf"^prompts is a {type(value).__name__}, expected a Prompts: `prior.encode"
    ):
        make(prior, value)


@pytest.mark.parametrize("make", [Fixed, Tempered])
@pytest.mark.parametrize("value", ["model/film_reviews", None, tiny().network, FineTuned], ids=type)
def test_a_source_is_a_guide_or_a_function(make, value) -> None:
    with pytest.raises(TypeError, match=r"^source is .*, expected a guide"):
        make(value)


REFUSED = {
    "target_modules is a list, expected a str": lambda prior: LoRA(
        prior, target_modules=["c_attn"]
    ),
    "text is a list, expected a str": lambda prior: SoftPrompt(prior, text=["a"]),
    "head is a .*, expected a Module": lambda prior: Twisted(prior, head=torch.tanh),
    "dtype is 'int8'": lambda prior: FineTuned(prior, dtype="int8"),
    "dtype is 16": lambda prior: FineTuned(prior, dtype=16),
    "guides is one Recurrent, expected a list": lambda prior: Mixture(Recurrent(prior)),
    "component is 'gru', expected one of": lambda prior: mixture_of(
        prior, prior.encode(["a"]), component="gru"
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_other_arguments_are_named(fault, prior) -> None:
    with pytest.raises((TypeError, ValueError), match=fault):
        REFUSED[fault](prior)


def test_components_of_other_ends_are_refused(prior) -> None:
    """A guide for other end ids would give one row of tokens two meanings."""
    other = Recurrent(tiny(end_ids=[0, 4]))
    prompts = prior.encode(["a"])
    with pytest.raises(ValueError, match="components have different responses, with end_ids"):
        Mixture([Recurrent(prior), other]).distribution(prompts)
    Mixture([Fixed(lambda prompts: prior(prompts))]).distribution(prompts)
