"""Networks with other positions are read correctly or refused; dropout stays off."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BloomConfig,
    DbrxConfig,
    DogeConfig,
    FalconConfig,
    Gemma3nTextConfig,
    Gemma4TextConfig,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MllamaConfig,
    MoshiConfig,
    MoshiForCausalLM,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedModel,
    RemBertConfig,
    RobertaConfig,
    RoCBertConfig,
    XLMRobertaConfig,
)

from guides import FineTuned, LoRA, SoftPrompt, Twisted
from guides.mixture import Mixture
from model import Expert, LanguageModel, SequenceClassifier, TextLikelihood
from model.preferences import EncoderFeatures, NetworkFeatures, PriorFeatures
from model.prior import cached_decoder
from model.prior.decoder_check import CachedReadingError
from tests.model.tiny import PROMPTS, WORDS, plain_log_prob, tiny, tiny_tokenizer

SIZES = {"vocab_size": len(WORDS), "hidden_size": 16}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "initializer_range": 0.5}
DECODER = {"max_position_embeddings": 16, "intermediate_size": 32, "is_decoder": True}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
LONG |= {"rope_theta": 10000.0, "original_max_position_embeddings": 8}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
SHARED = {"intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 8, "num_key_value_heads": 1}
SHARED |= {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
SHARED |= {"sliding_window": 3, "vocab_size_per_layer_input": len(WORDS)}
SHARED |= {"hidden_size_per_layer_input": 4}
"""Sizes of Gemma, whose layers share keys and have inputs of their own."""

CONFIGS = {
    "roberta": lambda **more: RobertaConfig(**SIZES | DECODER | SPECIAL | more),
    "xlm-roberta": lambda **more: XLMRobertaConfig(**SIZES | DECODER | SPECIAL | more),
    "bert": lambda **more: BertConfig(**SIZES | DECODER | SPECIAL | more),
    # keys and values in a part of the cache
    "rembert": lambda **more: RemBertConfig(
        **SIZES | DECODER | SPECIAL | more, input_embedding_size=8, output_embedding_size=8
    ),
    # no end id in the configuration
    "roc-bert": lambda **more: RoCBertConfig(
        **SIZES | DECODER | SPECIAL | more,
        pronunciation_vocab_size=3,
        shape_vocab_size=3,
        enable_pronunciation=False,
        enable_shape=False,
    ),
    "opt": lambda **more: OPTConfig(
        **SIZES
        | SPECIAL
        | {"max_position_embeddings": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.5}
        | more
    ),
    "phi3": lambda **more: Phi3Config(
        **SIZES
        | SPECIAL
        | {"max_position_embeddings": 32, "original_max_position_embeddings": 8}
        | more,
        num_key_value_heads=1,
        intermediate_size=32,
        rope_parameters=LONG,
    ),
    # layers with heads of different width, with inputs of their own, and without keys of their own
    "gemma4": lambda **more: Gemma4TextConfig(**SIZES | SPECIAL | SHARED | more),
    # several streams of hidden states, and layers without keys of their own
    "gemma3n": lambda **more: Gemma3nTextConfig(
        **SIZES | SPECIAL | SHARED | more, laurel_rank=4, activation_sparsity_pattern=[0.0] * 4
    ),
    # one matrix for queries, keys and values, which is clipped, and experts
    "dbrx": lambda **more: DbrxConfig(
        **{"vocab_size": len(WORDS), "d_model": 16, "n_heads": 2, "n_layers": 2} | SPECIAL | more,
        attn_config={"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 1.0},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 3, "moe_top_k": 2},
        max_seq_len=16,
    ),
    # experts, whose grouped products torch lacks in float64
    "mixtral": lambda **more: MixtralConfig(
        **SIZES | SPECIAL | {"intermediate_size": 32, "max_position_embeddings": 16} | more,
        num_key_value_heads=1,
        num_local_experts=3,
    ),
    # in longer texts than this window, a mask by a choice among all tokens, later ones too
    "doge": lambda **more: DogeConfig(
        **SIZES | SPECIAL | {"keep_window_size": 8, "intermediate_size": 32} | more
    ),
    # queries whose scale grows with the number of columns, padding too
    "llama4": lambda **more: Llama4TextConfig(
        **SIZES | SPECIAL | {"floor_scale": 9, "no_rope_layers": [1, 0], "head_dim": 8} | more,
        num_key_value_heads=1,
        num_local_experts=2,
        intermediate_size=32,
        intermediate_size_mlp=32,
    ),
    # a layer that reads images alone, without keys for a text
    "mllama": lambda **more: MllamaConfig(
        text_config={**SIZES, **SPECIAL, "intermediate_size": 32, "cross_attention_layers": [1]}
        | {"num_key_value_heads": 1, "max_position_embeddings": 16, "rope_parameters": PLAIN}
        | more
    ),
    "dynamic": lambda **more: LlamaConfig(
        **SIZES | SPECIAL | {"max_position_embeddings": 8} | more,
        num_key_value_heads=1,
        intermediate_size=32,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    ),
}


ALIBI = {
    "bloom": BloomConfig(**SIZES | SPECIAL),
    "mpt": MptConfig(**SIZES | SPECIAL, max_seq_len=16, init_std=0.5),
    # takes `position_ids`, and does not read them
    "falcon": FalconConfig(**SIZES | SPECIAL, alibi=True),
}
"""Networks that count positions by the mask."""


def assert_plain(language_model, prompts, response, *, rtol=0.0, atol=1e-6):
    """The response to each prompt has the log-probability of one pass over the sequence alone."""
    pairs = zip(map(torch.tensor, prompts.rows()), response, strict=True)
    expected = [plain_log_prob(language_model, *pair) for pair in pairs]
    log_prob = language_model(prompts).log_prob(response)
    assert_close(log_prob, torch.stack(expected).to(log_prob), rtol=rtol, atol=atol)


def language_model_of(kind: str, max_new_tokens: int = 3, **more: object) -> LanguageModel:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[kind](**more)).double()
    return LanguageModel(network, tiny_tokenizer(), max_new_tokens=max_new_tokens)


# Positions


@pytest.mark.parametrize("kind", CONFIGS)
def test_network_gives_a_padded_prompt_the_probabilities_of_the_plain_sequence(kind):
    """For prompts of different lengths."""
    language_model = language_model_of(kind)
    response = torch.tensor([[2, 3, 4], [4, 4, 0], [4, 3, 3]])
    assert_plain(language_model, language_model.encode(PROMPTS), response)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["cpu", "as on a GPU"])
@pytest.mark.parametrize("kind", ALIBI)
def test_network_that_counts_positions_by_the_mask_is_read_as_the_plain_sequence(
    kind, asynchronous, monkeypatch
):
    monkeypatch.setattr(cached_decoder, "is_asynchronous", lambda device: asynchronous)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(ALIBI[kind])
    language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    prompts = language_model.encode(PROMPTS)
    response, log_prob = language_model(prompts).sample_and_log_prob((8,))
    rows = [torch.tensor(row) for row in prompts.rows()]
    expected = [
        torch.stack([plain_log_prob(language_model, row, each) for each in response[:, n]])
        for n, row in enumerate(rows)
    ]
    expected = torch.stack(expected, 1).double()
    assert_close(language_model(prompts).log_prob(response), expected, rtol=0, atol=1e-3)
    assert_close(log_prob, expected, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="positions by the mask: leave compile_decode out"):
        language_model.check_fixed()


@pytest.mark.on_cpu  # a GPU has a mask in which padding reads itself
@pytest.mark.parametrize("guide", [None, LoRA, Twisted], ids=["prior", "lora", "twisted"])
def test_padding_that_a_network_reads_as_nan_is_refused_before_any_pass(guide):
    """Eager attention in float64 rounds the mask to minus infinity."""
    torch.manual_seed(0)
    network = tiny("llama").network
    network.set_attn_implementation("eager")
    prior = LanguageModel(network.double(), tiny_tokenizer(), max_new_tokens=3)
    distribution = prior if guide is None else guide(prior).distribution
    response = torch.tensor([[2, 3, 4], [4, 4, 0]])
    same, other = prior.encode(["a b", "b c"]), prior.encode(["a b", "b"])
    assert distribution(same).log_prob(response).isfinite().all()
    fault = "in torch.float64, with attention by 'eager', gives NaN to prompts of different lengths"
    with pytest.raises(ValueError, match=fault):
        distribution(other).log_prob(response)
    with pytest.raises(ValueError, match=fault):
        distribution(other).sample()


@pytest.mark.parametrize("kind", ["several", "quantised"])
def test_network_without_one_output_layer_of_weights_is_refused(kind):
    network = copy.deepcopy(tiny().network)
    head = nn.ModuleList([network.lm_head])
    if kind == "quantised":  # as in torch's layers of whole numbers
        head.weight = lambda: network.lm_head.weight
    network.set_output_embeddings(head)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has not one output layer"):
        LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


def test_attention_that_is_always_in_float32_is_rounding_and_no_other_reading():
    """GPT-Neo does not scale its products, so that they are large, and computes them in float32."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_layers": 4, "num_heads": 2}
    config = GPTNeoConfig(
        **sizes,
        attention_types=[[["global", "local"], 2]],
        window_size=3,
        max_position_embeddings=16,
        **SPECIAL | {"initializer_range": 3.0},
    )
    for seed in range(3):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config).double()
        prior = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
        response = torch.tensor([[2, 3, 4], [4, 4, 0], [4, 3, 3]])
        assert_plain(prior, prior.encode(PROMPTS), response, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize("pad_id", [0, 1, 4], ids=["end", "padding", "word"])
def test_networks_that_count_no_padding_count_none_that_is_written_or_drawn(kind, pad_id):
    """Positions within a prompt and a response, in one pass and token by token."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[kind](pad_token_id=pad_id)).double()
    language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=4, end_ids=[0])
    prompts = language_model.encode(
        [f"a {WORDS[pad_id]} b {WORDS[pad_id]}", "b", f"{WORDS[pad_id]} c"]
    )
    response = torch.tensor(
        [[2, pad_id or 1, 3, 2], [pad_id or 1, 3, pad_id or 1, 2], [3, 2, pad_id or 1, 2]]
    )
    assert_plain(language_model, prompts, response)
    distribution = language_model(prompts)
    logits, state = language_model.start(prompts)
    for t in range(4):
        assert_close(logits, distribution.next_token_logits(response)[:, t], rtol=0, atol=1e-6)
        logits, state = language_model.extend(state, response[:, t : t + 1])
        logits = logits[:, -1]


def test_logits_that_are_no_numbers_are_refused():
    network = copy.deepcopy(tiny().network)
    network.transformer.ln_f.register_forward_hook(
        lambda module, inputs, output: output * torch.nan
    )
    with pytest.raises(ValueError, match=r"logits of GPT2LMHeadModel in torch\.float64 are NaN"):
        LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


class OtherReading(GPT2LMHeadModel):
    """A network that changes the arguments of its passes."""

    def change(self, options):
        raise NotImplementedError

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **more
    ):
        options = {"input_ids": input_ids, "attention_mask": attention_mask} | more
        options |= {"position_ids": position_ids, "past_key_values": past_key_values}
        self.change(options)
        return super().forward(**options)


@pytest.mark.parametrize("max_new_tokens", [13, 14, 15])
def test_network_with_little_room_for_prompts_is_checked_too(max_new_tokens):
    class Counts(OtherReading):
        def change(self, options):
            ids = options["input_ids"]
            options["position_ids"] = torch.arange(ids.shape[1])[None] + (ids[:, :1] > 0)
            options["use_cache"] = False
            del options["past_key_values"]

    torch.manual_seed(0)
    with pytest.raises(CachedReadingError):
        LanguageModel(
            Counts(tiny().network.config), tiny_tokenizer(), max_new_tokens=max_new_tokens
        )


def test_context_leaves_out_positions_before_the_first():
    language_model = language_model_of("roberta")
    assert language_model.context == 14
    language_model(language_model.encode(["a " * 11])).sample()
    with pytest.raises(ValueError, match="over the network's context of 14"):
        language_model.encode(["a " * 12])


@pytest.mark.parametrize("kind", ["phi3", "dynamic", "doge", "llama4"])
def test_prompt_does_not_cross_the_length_at_which_the_reading_changes(kind):
    language_model = language_model_of(kind)
    prompts = language_model.encode(["a b c a b"])
    assert_plain(language_model, prompts, torch.tensor([[2, 3, 4]]))
    with pytest.raises(ValueError, match="over the network's context of 8"):
        language_model.encode(["a b c a b c"])


def test_network_that_looks_ahead_is_refused():
    match = "BertLMHeadModel after a token depend on the token that follows"
    with pytest.raises(ValueError, match=match):
        language_model_of("bert", is_decoder=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_network_that_counts_positions_by_itself_is_refused_and_rounding_is_not(dtype):
    class Counts(OtherReading):
        def change(self, options):
            del options["position_ids"]

    config = tiny().network.config
    for kind in (GPT2LMHeadModel, Counts):
        torch.manual_seed(0)
        network = kind(config).to(dtype)
        if kind is Counts:
            match = "Counts gives a token other log-probabilities"
            with pytest.raises(CachedReadingError, match=match):
                LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
        else:
            LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


WINDOWED = SIZES | SPECIAL | {"intermediate_size": 32, "max_position_embeddings": 64}


@pytest.mark.parametrize("window", [6, 4096])
def test_network_with_another_window_in_the_cache_than_in_a_plain_pass_is_refused(window):
    """Moshi's mask has no window, and its cache drops what is beyond the window."""
    sizes = {name: size for name, size in WINDOWED.items() if name != "intermediate_size"}
    config = MoshiConfig(**sizes, ffn_dim=32, num_key_value_heads=2, sliding_window=window)
    torch.manual_seed(0)
    network = MoshiForCausalLM(config)
    with pytest.raises(CachedReadingError, match="MoshiForCausalLM gives a token other"):
        LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


@pytest.mark.parametrize("window", [6, 4096])
def test_windows_of_a_network_stay_as_they_were(window):
    torch.manual_seed(0)
    config = MistralConfig(**WINDOWED, num_key_value_heads=1, sliding_window=window)
    network = MistralForCausalLM(config).double()
    language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    holders = [part for part in network.modules() if hasattr(part, "sliding_window")]
    assert {holder.sliding_window for holder in [*holders, network.config]} == {window}
    prompts = language_model.encode(["a b c a b c a a b", "c"])
    assert_plain(language_model, prompts, torch.tensor([[2, 3, 4]] * 2))


def test_padding_that_a_network_cannot_read_hides_no_other_fault():
    """Eager attention in float64 rounds the mask to minus infinity, and gives NaN at padding."""
    torch.manual_seed(0)
    sizes = {name: size for name, size in WINDOWED.items() if name != "intermediate_size"}
    config = MoshiConfig(**sizes, ffn_dim=32, num_key_value_heads=2, sliding_window=6)
    config._attn_implementation = "eager"
    with pytest.raises(CachedReadingError, match=r"by up to [0-9]"):
        LanguageModel(MoshiForCausalLM(config).double(), tiny_tokenizer(), max_new_tokens=3)


def test_network_that_takes_no_padding_is_refused_by_name():
    class Unpadded(OtherReading):
        def change(self, options):
            mask = options.pop("attention_mask")
            if mask is not None and not mask.all():
                raise NotImplementedError("no padding")

    match = r"Unpadded in torch.float32 cannot .*: NotImplementedError: no padding"
    with pytest.raises(CachedReadingError, match=match):
        LanguageModel(Unpadded(tiny().network.config), tiny_tokenizer(), max_new_tokens=3)


def test_no_pass_leaves_open_whether_a_token_is_padding(monkeypatch):
    """`transformers` would warn, and some networks would read the token as padding."""
    open_passes = []

    def noticed(self, ids, mask):
        open_passes.append(
            mask is None and ids is not None and self.config.pad_token_id in ids.tolist()[0]
        )

    monkeypatch.setattr(PreTrainedModel, "warn_if_padding_and_no_attention_mask", noticed)
    network = copy.deepcopy(tiny().network)
    network.config.pad_token_id = 0
    language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    language_model(language_model.encode([""])).sample()
    assert open_passes
    assert not any(open_passes)


# Dropout


def part_of(network: nn.Module) -> nn.Module:
    """Part of a network with dropout; the network stays in evaluation mode."""
    return next(
        module for module in network.modules() if isinstance(module, nn.Dropout) and module.p > 0
    )


def holders() -> dict[str, tuple]:
    """Networks with dropout and a number computed by each, by name."""
    prior = tiny()
    prompts = prior.encode(PROMPTS)
    response = torch.tensor([[2, 3, 4]] * 3)
    sizes = {**SIZES, "intermediate_size": 32, "hidden_dropout_prob": 0.5}
    classifier = GPT2ForSequenceClassification(copy.deepcopy(prior.network.config))
    encoder = BertModel(BertConfig(**sizes))
    expert, likelihood = Expert(prior, prior), TextLikelihood(prior.network, prior.tokenizer)
    classified, encoded = (
        SequenceClassifier(classifier, tiny_tokenizer(), 0),
        EncoderFeatures(encoder, tiny_tokenizer()),
    )
    values = {
        "prior": (prior.network, lambda: prior(prompts).log_prob(response)),
        "expert": (prior.network, lambda: expert(prompts, response)),
        "prior features": (prior.network, lambda: PriorFeatures(prior)(["a b"])),
        "likelihood": (prior.network, lambda: likelihood(["a b c"])),
        "classifier": (classifier, lambda: classified(["a b"])),
        "encoder": (encoder, lambda: _uncached(encoded)(["a b"])),
    }
    tuned = FineTuned(prior)
    guides = {
        "fine-tuned": tuned,
        "lora": LoRA(prior),
        "soft-prompt": SoftPrompt(prior),
        "mixture": Mixture([tuned]),
    }
    networks = {"soft-prompt": prior.network, "lora": guides["lora"].language_model.network}
    for name, guide in guides.items():
        network = networks.get(name, tuned.language_model.network)
        values[name] = (network, lambda guide=guide: guide.distribution(prompts).log_prob(response))
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, len(WORDS)).double()).to(prior.device)
    twisted = Twisted(prior, head=head)
    values["twist"] = (head, lambda: twisted.twist(prompts, response[None], 2))
    values["twisted"] = (head, lambda: twisted.distribution(prompts).log_prob(response))
    return values


def _uncached(features: NetworkFeatures) -> NetworkFeatures:
    features._cache.clear()
    return features


@pytest.mark.parametrize("name", holders())
def test_dropout_that_is_turned_on_from_outside_is_turned_off(name):
    network, number = holders()[name]
    expected = number()
    for train in (network.train, lambda: part_of(network).train()):
        train()
        assert torch.equal(number(), expected)
        assert not any(module.training for module in network.modules())


def test_a_mask_of_several_tokens_is_causal_and_lets_padding_read_itself():
    language_model = tiny("llama")
    first, last = (
        (language_model._wide(torch.tensor([[0, 1, 1, 1]]), num_tokens)[0, 0] == 0).int().tolist()
        for num_tokens in (4, 2)
    )
    assert first == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert last == first[2:]
