"""Fine-tuning: a copy of the prior, or one that shares the weights that do not train."""

import copy
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoConfig, RobertaPreLayerNormConfig

from guides import FineTuned, LoRA
from inference import log_guide_at
from model import LanguageModel
from tests.model.tiny import PROMPTS, WORDS, tiny, tiny_tokenizer

assert_close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)


SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "intermediate_size": 32, "eos_token_id": 0, "pad_token_id": 1}


def prior_of(config):
    network = AutoModelForCausalLM.from_config(config)
    return LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


def test_norms_are_layers_and_no_network_of_that_name():
    prior = prior_of(RobertaPreLayerNormConfig(**SIZES, is_decoder=True))
    names = FineTuned(prior, subset="norms-and-biases").trained()
    assert {name.rsplit(".", 2)[1] for name in names if name.endswith("weight")} == {
        "LayerNorm",
        "layer_norm",
    }


def test_a_network_without_norms_that_train_and_biases_is_refused():
    with pytest.raises(ValueError, match="OlmoForCausalLM has neither weights of norms nor biases"):
        FineTuned(prior_of(OlmoConfig(**SIZES)), subset="norms-and-biases")


def test_fine_tuned_is_loaded_by_transformers_alone(prior, prompts, tmp_path):
    guide = FineTuned(prior)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.01
    guide.save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    again = LanguageModel(
        network, AutoTokenizer.from_pretrained(tmp_path), max_new_tokens=prior.max_new_tokens
    )
    response = prior(prompts).sample((5,))
    assert_close(
        again(again.encode(prompts.texts)).log_prob(response),
        guide.distribution(prompts).log_prob(response),
    )


def test_fine_tuned_in_another_dtype(prior, prompts):
    guide = FineTuned(prior, dtype=torch.bfloat16)
    assert guide.language_model.network.dtype == torch.bfloat16
    assert guide.distribution(prompts).log_prob(prior(prompts).sample()).dtype == torch.float64
    assert prior.network.dtype == torch.float64


@pytest.mark.parametrize("network", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"subset": "last-layers"}, lambda name: ".1." in name),
        ({"subset": "last-layers", "num_layers": 2}, lambda name: ".0." in name or ".1." in name),
        (
            {"subset": "norms-and-biases"},
            lambda name: "norm" in name or ".ln_" in name or name.endswith("bias"),
        ),
    ],
)
def test_a_subset_trains_and_the_rest_is_the_priors_own(network, options, named):
    prior = tiny(network)
    prompts, before = prior.encode(PROMPTS), copy.deepcopy(prior.state_dict())
    guide = FineTuned(prior, **options)
    own = {id(parameter) for parameter in prior.network.parameters()}
    chosen = [name for name, _ in prior.network.named_parameters() if named(name)]
    assert chosen
    for name, parameter in guide.language_model.network.named_parameters():
        assert parameter.requires_grad == (name in chosen) == (id(parameter) not in own), name
    log_guide_at(guide, prompts, prior(prompts).sample((4,))).sum().backward()
    assert all(parameter.grad is not None for parameter in guide.trained().values())
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 1
    assert all(torch.equal(before[name], value) for name, value in prior.state_dict().items())


def test_the_prior_moves_with_the_weights_that_are_shared():
    prior = tiny()
    FineTuned(prior, subset="norms-and-biases").to("meta")
    assert prior.space.end_ids.device.type == prior.network.device.type == "meta"


def test_prior_with_an_adapter_is_refused():
    """Transformers would save the adapter instead of the trained weights."""
    prior = LoRA(tiny()).language_model
    with pytest.raises(ValueError, match="the prior has an adapter of `peft`"):
        FineTuned(prior)


def test_subsets_that_are_not_there():
    prior = tiny()
    match = "num_layers is 3, expected between 1 and the network's 2 blocks"
    with pytest.raises(ValueError, match=match):
        FineTuned(prior, subset="last-layers", num_layers=3)
