"""`LanguageModel`: loads, saves, encodes, decodes, is frozen; refuses impossible arguments."""

import copy
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    Cache,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import ModelOutput

from model import AlignmentModel, LanguageModel
from model.prior.tokenization import unknown_words
from tests.model.generation import assert_generates
from tests.model.tiny import NETWORKS, PROMPTS, WORDS, tiny, tiny_tokenizer


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


# Saved and loaded


def test_loaded_model_equals_the_saved_model(network: str, tmp_path: Path) -> None:
    saved = tiny(network, temperature=0.7, pad_id=3)
    saved.save_pretrained(tmp_path)
    settings = {"max_new_tokens": 3, "temperature": 0.7, "pad_id": 3, "device": "cpu"}
    loaded = LanguageModel.from_pretrained(tmp_path, dtype=torch.float64, **settings)
    value = saved(saved.encode(PROMPTS)).sample((4,))
    log_prob = [
        language_model(language_model.encode(PROMPTS)).log_prob(value)
        for language_model in (saved, loaded)
    ]
    assert_close(*log_prob, rtol=0, atol=1e-12)
    assert not any(module.training for module in loaded.modules())


def test_generate_of_a_saved_network_draws_from_the_distribution(tmp_path: Path) -> None:
    """Whatever the settings of the checkpoint, which are no part of the distribution."""
    prior = tiny(temperature=0.7, max_new_tokens=6)
    others = {"temperature": 0.3, "top_k": 1, "top_p": 0.2, "repetition_penalty": 3.0}
    prior.network.generation_config.update(do_sample=True, **others)
    prior.save_pretrained(tmp_path)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert_generates(network, prior)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": torch.float64}, torch.float64),
        ({"dtype": "float64"}, torch.float64),
        ({"dtype": "bfloat16"}, torch.bfloat16),
    ],
    ids=["default", "dtype", "name", "half"],
)
def test_dtype_is_the_argument_for_any_type_on_disk(
    setting: dict, expected: torch.dtype, tmp_path: Path
) -> None:
    tiny(dtype=torch.float16).save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device="cpu", **setting)
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}


def test_a_real_checkpoint_loads_and_writes_english(stories_folder: Path) -> None:
    language_model = LanguageModel.from_pretrained(
        stories_folder, max_new_tokens=40, temperature=0.5, device="cpu"
    )
    prompts = language_model.encode(["Once upon a time, there was a little girl named"])
    (text,) = language_model.decode(language_model(prompts).sample(), prompts)
    assert text.startswith("Once upon a time, there was a little girl named")
    assert {"She", "was", "the", "to", "and", "a"} & set(text.split()[10:])
    assert language_model.end_ids == (2,)
    assert language_model.pad_id == 2


# End and padding ids


def test_end_ids_are_all_that_settings_configuration_and_tokenizer_name(tmp_path: Path) -> None:
    saved = tiny()
    saved.network.generation_config.eos_token_id = [4, 0]
    saved.network.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device="cpu")
    assert loaded.end_ids == (0, 4)
    network, tokenizer = loaded.network, loaded.tokenizer
    network.generation_config.eos_token_id = None
    network.config.eos_token_id = 3
    match = r"configuration: \[3\]; tokenizer: \[0\]\): each of \[0, 3\] does"
    with pytest.warns(UserWarning, match=match):
        assert LanguageModel(network, tokenizer, max_new_tokens=3).end_ids == (0, 3)
    network.generation_config.eos_token_id = 2
    match = r"generation settings: \[2\]; configuration: \[3\]; tokenizer: \[0\]"
    with pytest.warns(UserWarning, match=match):
        assert LanguageModel(network, tokenizer, max_new_tokens=3).end_ids == (0, 2, 3)
    network.config.eos_token_id = network.generation_config.eos_token_id = None
    assert LanguageModel(network, tokenizer, max_new_tokens=3).end_ids == (0,)
    assert LanguageModel(network, tokenizer, max_new_tokens=3, end_ids=[2]).end_ids == (2,)


@pytest.mark.filterwarnings("error")
def test_complete_settings_and_ids_that_cannot_be_drawn_give_no_warning() -> None:
    network = tiny().network
    network.generation_config.eos_token_id, network.config.eos_token_id = [4, 0], 4
    assert LanguageModel(network, tiny_tokenizer(), max_new_tokens=3).end_ids == (0, 4)
    network.config.eos_token_id = 50256
    assert LanguageModel(network, tiny_tokenizer(), max_new_tokens=3).end_ids == (0, 4)


def test_the_padding_id_is_the_tokenizers_else_the_first_end_id() -> None:
    network = tiny().network
    assert LanguageModel(network, tiny_tokenizer(pad_token="<pad>"), max_new_tokens=3).pad_id == 1
    assert LanguageModel(network, tiny_tokenizer(), max_new_tokens=3, end_ids=[4, 3]).pad_id == 3


# Frozen


def test_no_parameter_trains_and_dropout_stays_off() -> None:
    language_model = tiny()
    for module in (
        language_model,
        copy.deepcopy(language_model),
        torch.nn.ModuleList([language_model]),
    ):
        module.train()
    assert not any(parameter.requires_grad for parameter in language_model.parameters())
    assert not any(module.training for module in language_model.modules())
    distribution = language_model(language_model.encode(PROMPTS))
    value = distribution.sample()
    assert torch.equal(distribution.log_prob(value), distribution.log_prob(value))


def test_running_a_model_registers_no_parameter_with_pyro(prior: LanguageModel) -> None:
    model = AlignmentModel(prior, lambda _, response: torch.zeros(response.shape[:-1]), beta=1.0)
    model(prior.encode(["the film was"]))
    assert not list(pyro.get_param_store().keys())


# The state that decoding goes on from


def test_selecting_sequences_does_not_change_the_state(network: str) -> None:
    language_model = tiny(network)
    first, state = language_model.start(language_model.encode(PROMPTS))
    twice = torch.tensor([2, 0, 0])
    some, _ = language_model.extend(state.select(twice), torch.tensor([[2], [3], [4]]))
    every, _ = language_model.extend(state.select(torch.arange(3)), torch.tensor([[3], [2], [2]]))
    assert first.shape == (3, 5)
    assert_close(some[[0, 1]], every[[2, 0]], rtol=0, atol=1e-12)


# What is read before the prompts


def test_prompts_can_follow_a_common_prefix_read_once(network: str) -> None:
    """Three words read once, before prompts of different lengths, or as part of each of them."""
    language_model, value = tiny(network), torch.tensor([[2, 3], [3, 3], [4, 2]])
    prefix = language_model.read(
        language_model.network.get_input_embeddings()(torch.tensor([4, 2, 3]))
    )
    keys = [layer.keys.clone() for layer in prefix.layers]
    prompts = ["a b c a", "", "b"]
    after, state = language_model.start(language_model.encode(prompts), prefix)
    joined, joined_state = language_model.start(
        language_model.encode([f"c a b {text or '<end>'}" for text in prompts])
    )
    assert_close(after, joined, rtol=0, atol=1e-5)
    assert_close(state.hidden, joined_state.hidden, rtol=0, atol=1e-5)
    rows = torch.tensor([1, 2, 0])
    extended = [
        language_model.extend(each.select(rows), value)[0] for each in (state, joined_state)
    ]
    assert_close(*extended, rtol=0, atol=1e-5)
    assert all(
        torch.equal(*pair)
        for pair in zip(keys, (layer.keys for layer in prefix.layers), strict=True)
    )


def test_logits_from_embeddings_have_a_gradient_to_the_embeddings(network: str) -> None:
    language_model = tiny(network)
    embeddings = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    logits, _ = language_model.start(
        language_model.encode(PROMPTS), language_model.read(embeddings)
    )
    text = language_model.network.get_input_embeddings()(
        torch.tensor([2, 3, 4, 2])
    )  # the first prompt
    plain = language_model.network(inputs_embeds=torch.cat([embeddings, text])[None]).logits[0, -1]
    expected = torch.autograd.grad(plain[2], embeddings)
    assert_close(torch.autograd.grad(logits[0, 2], embeddings), expected, rtol=0, atol=1e-5)


# Texts


def test_encode_turns_an_empty_prompt_into_the_beginning_token() -> None:
    prompts = tiny().encode(["a b", ""])
    assert prompts.texts == ("a b", "")
    assert [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)] == [
        [2, 3],
        [0],
    ]


@pytest.mark.parametrize(
    ("settings", "row", "text"),
    [
        ({}, [2, 3, 4], "a b c"),
        ({}, [2, 0, 0], "a"),
        ({}, [0, 0, 0], ""),
        ({"pad_id": 3}, [2, 0, 3], "a"),
        ({"pad_id": 3}, [3, 0, 3], "b"),
        ({"end_ids": [0, 3]}, [2, 3, 0], "a"),
    ],
    ids=[
        "cut off",
        "ended",
        "empty",
        "pad is a word",
        "pad is a word of the response",
        "an end is a word",
    ],
)
def test_decode_stops_at_the_end(settings: dict, row: list[int], text: str) -> None:
    assert tiny(**settings).decode(torch.tensor([row])) == [text]


def test_decode_nests_as_the_batch_does_and_puts_prompts_in_front() -> None:
    language_model = tiny()
    prompts = language_model.encode(["a b", ""])
    response = torch.tensor([[[2, 0, 0], [3, 3, 0]], [[0, 0, 0], [4, 4, 4]]])
    assert language_model.decode(response[0]) == ["a", "b b"]
    assert language_model.decode(response) == [["a", "b b"], ["", "c c c"]]
    assert language_model.decode(response, prompts) == [["a b a", "b b"], ["a b", "c c c"]]
    assert language_model.decode(response[None], prompts) == [[["a b a", "b b"], ["a b", "c c c"]]]


# Refused


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"end_ids": []}, "pass `end_ids"),
        ({"end_ids": [0, 5]}, "end_ids has 5"),
        ({"pad_id": -1}, "pad_id has -1"),
        ({"pad_id": 5}, "pad_id has 5"),
        ({"pad_id": True}, "pad_id has True"),
        ({"pad_id": "0"}, "pad_id has '0'"),
        ({"end_ids": [True]}, "end_ids has True"),
        ({"end_ids": [0.0]}, r"end_ids has 0\.0"),
        ({"temperature": 10**400}, "temperature is 10000"),
    ],
)
def test_settings_that_make_no_distribution_are_refused(settings: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        tiny(**settings)


@pytest.mark.parametrize("end_ids", [0, "0", b"0"])
def test_end_ids_are_a_list(end_ids: object) -> None:
    with pytest.raises(TypeError, match=f"end_ids is {end_ids!r}, expected a list of token ids"):
        tiny(end_ids=end_ids)


def test_a_tokenizer_with_more_tokens_than_the_network_reads_is_doubted() -> None:
    """Its first ids would be read as other words, without an error."""
    config = copy.deepcopy(tiny().network.config)
    config.vocab_size = len(WORDS) - 1
    with pytest.warns(UserWarning, match="has 5 tokens, and GPT2LMHeadModel reads 4: is the tok"):
        LanguageModel(GPT2LMHeadModel(config), tiny_tokenizer(), max_new_tokens=3)


def test_a_network_without_any_end_id_is_refused() -> None:
    network = tiny().network
    network.generation_config.eos_token_id = network.config.eos_token_id = None
    match = "neither the network nor its tokenizer names an end-of-sequence id"
    with pytest.raises(ValueError, match=match):
        LanguageModel(network, tiny_tokenizer(eos_token=None), max_new_tokens=3)


def test_a_network_that_takes_no_keys_and_values_is_refused() -> None:
    network = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=1)
    )
    match = r"OpenAIGPTLMHeadModel\.forward takes input_ids.*: expected cache or past_key_values"
    with pytest.raises(ValueError, match=match):
        LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


class NewerNames(GPT2LMHeadModel):
    """The keys and values by their name in `transformers` from 5.24 on."""

    def forward(self, input_ids=None, cache=None, position_ids=None, logits_to_keep=0, **options):
        options |= {"position_ids": position_ids, "logits_to_keep": logits_to_keep}
        out = super().forward(input_ids, cache, **options)
        return ModelOutput(
            logits=out.logits, cache=next((v for v in out.values() if isinstance(v, Cache)), None)
        )


def test_keys_and_values_have_either_name() -> None:
    """The same draws and log probabilities."""
    expected = tiny()
    network = NewerNames(expected.network.config).double()
    network.load_state_dict(expected.network.state_dict())
    got = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    values, log_probs = [], []
    for language_model in (expected, got):
        torch.manual_seed(0)
        distribution = language_model(language_model.encode(PROMPTS))
        values.append(distribution.sample((8,)))
        log_probs.append(distribution.log_prob(values[0]))
    assert_close(*values, rtol=0, atol=0)
    assert_close(*log_probs, rtol=0, atol=1e-12)


def test_encode_refuses_a_prompt_that_leaves_no_room_for_the_response() -> None:
    language_model = tiny()
    language_model.encode(["a " * 13])
    match = r"prompt 1 has 14 tokens .* over the network's context of 16"
    with pytest.raises(ValueError, match=match):
        language_model.encode(["a", "a " * 14])


def test_encode_refuses_an_empty_prompt_without_bos() -> None:
    language_model = LanguageModel(tiny().network, tiny_tokenizer(bos_token=None), max_new_tokens=3)
    with pytest.raises(ValueError, match=r"prompt 1 is empty and .* no BOS token: write"):
        language_model.encode(["a", ""])


def test_a_call_on_texts_is_refused() -> None:
    with pytest.raises(TypeError, match=r"prompts is a list, expected a Prompts: .prior.encode"):
        tiny()(["a b"])


def test_layers_without_a_key_value_cache_are_refused() -> None:
    network = tiny().network
    network.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"has layers of kind \['linear_attention'\]"):
        LanguageModel(network, tiny().tokenizer, max_new_tokens=3)


def test_nan_logits_are_an_error() -> None:
    language_model = tiny()
    with torch.no_grad():
        next(language_model.network.parameters()).fill_(torch.nan)
    place = "response 0, to prompt 0, token 0"
    with pytest.raises(FloatingPointError, match=f"{place}: the network's logits are NaN"):
        language_model(language_model.encode(["a b"])).sample()


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_output_layer_is_given_states_without_gaps(num_prompts):
    """A strided state would make torch copy the output layer for each prompt, most of a step."""
    prior, strides = tiny(), []
    layer = prior.network.get_output_embeddings()
    hook = layer.register_forward_hook(lambda _, inputs, __: strides.append(inputs[0].stride()))
    prior.start(prior.encode(["a b c a", "b"][:num_prompts]))
    hook.remove()
    width = layer.weight.shape[1]
    assert strides == [(width, width, 1)]


@pytest.mark.parametrize(("text", "word"), [("The film was", "The"), ("the film, was", "film,")])
def test_a_word_of_a_prompt_that_the_tokenizer_does_not_know_is_named(prior, text, word):
    with pytest.warns(UserWarning, match=f"words of 1 prompts, first '{word}' of prompt 1"):
        prior.encode(["the film was", text])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.encode(["the film was", "<end> the"])


def test_unknown_words_are_those_of_the_whole_text_by_unigrams_too():
    """Unigrams have no name of the unknown token, and truncation stays on after a call."""
    pieces = [("<unk>", 0.0), ("the", -1.0), (" ", -1.0)]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>")
    tokenizer("the the the", truncation=True, max_length=2)
    assert unknown_words(tokenizer, "the the film") == ["film"]
