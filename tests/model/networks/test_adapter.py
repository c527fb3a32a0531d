"""Adapters of `peft` on a network: the same result as `peft`, or a refusal by name."""

import json
from functools import partial

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from guides import LoRA, SoftPrompt
from guides.guide import Guide, OtherGuideError
from inference import fit, log_guide_at
from model import AlignmentModel, LanguageModel, Length, Prompts, SequenceClassifier
from model.common.files import MANIFEST
from model.networks import loading
from model.networks.adapter import KINDS, PREFIX
from model.networks.source import PretrainedError
from tests.model.tiny import GPT2_SIZES, NETWORKS, PROMPTS, tiny, tiny_tokenizer

IDS = torch.tensor([[2, 3, 4], [4, 0, 3]])
WEIGHTS = "adapter_model.safetensors"
NAMES = {"gpt2": ["c_attn"], "llama": ["q_proj", "down_proj"]}


def base_of(network, folder):
    """Base network in a folder, loaded like `transformers`."""
    torch.manual_seed(0)
    NETWORKS[network]().save_pretrained(folder)
    tiny_tokenizer(pad_token="<pad>").save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def scattered(wrapped):
    """All trained tensors of an adapter, away from the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    return wrapped.eval()


def lora(network, **options):
    return peft.LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=NAMES[network],
        fan_in_fan_out=network == "gpt2",
        **options,
    )


OPTIONS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
    "one layer": {"layers_to_transform": [1]},
    "ranks": {
        "rank_pattern": {"c_attn": 3, "q_proj": 3},
        "alpha_pattern": {"c_attn": 1, "q_proj": 1},
    },
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "with bias": {"lora_bias": True},
    "output layer": {"modules_to_save": ["lm_head"]},
    "norm": {"modules_to_save": ["ln_f", "norm"]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_adapter_under_the_prior_is_the_one_that_peft_trained(network, kind, tmp_path):
    wrapped = scattered(
        peft.get_peft_model(base_of(network, tmp_path / "base"), lora(network, **OPTIONS[kind]))
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    expected = wrapped(IDS).logits
    assert not torch.allclose(
        expected, AutoModelForCausalLM.from_pretrained(tmp_path / "base")(IDS).logits, atol=0.01
    )
    loaded = LanguageModel.from_pretrained(tmp_path / "adapter", max_new_tokens=3, device="cpu")
    torch.testing.assert_close(loaded.network(IDS).logits, expected, atol=1e-5, rtol=0)


def test_the_file_of_an_adapter_is_read_once_for_network_and_tokenizer(tmp_path, monkeypatch):
    wrapped = peft.get_peft_model(base_of("gpt2", tmp_path / "base"), lora("gpt2"))
    wrapped.save_pretrained(tmp_path / "adapter")
    sources, original = [], loading.find_adapter
    monkeypatch.setattr(
        loading, "find_adapter", lambda *args: sources.append(args[0]) or original(*args)
    )
    LanguageModel.from_pretrained(tmp_path / "adapter", max_new_tokens=3, device="cpu")
    assert sources.count(str(tmp_path / "adapter")) == 1


def test_a_folder_of_network_and_adapter_without_tokenizer_is_refused(tmp_path):
    """The base of the adapter is the folder itself, which was looked up without end."""
    peft.get_peft_model(base_of("gpt2", tmp_path), lora("gpt2")).save_pretrained(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(PretrainedError, match="tokenizer"):
        LanguageModel.from_pretrained(tmp_path, max_new_tokens=3, device="cpu")


def test_an_adapter_on_embeddings_and_output_layer_is_the_one_that_peft_trained(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"])
    wrapped = scattered(peft.get_peft_model(base_of("llama", tmp_path / "base"), config))
    wrapped.save_pretrained(tmp_path / "adapter")
    assert any("base_layer" in name for name in load_file(tmp_path / "adapter" / WEIGHTS))
    loaded = LanguageModel.from_pretrained(tmp_path / "adapter", max_new_tokens=3, device="cpu")
    torch.testing.assert_close(loaded.network(IDS).logits, wrapped(IDS).logits, atol=1e-5, rtol=0)


OTHERS = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "FOURIERFT": {"n_frequency": 5},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["norm"]},
    "LORA": {"trainable_token_indices": [2, 3]},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4, "r": 0},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [2, 3], "target_modules": ["embed_tokens"]},
    "VBLORA": {"r": 2, "vector_length": 4, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 20},
}
NO_LAYERS = "ADAMSS ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING POLY PREFIX_TUNING "
NO_LAYERS += "PROMPT_TUNING P_TUNING SHADOW XLORA"
"""Kinds that need other inputs, such as virtual tokens, or another package."""


class Wrapped(Guide):
    """The adapter of a network as a guide."""

    def __init__(self, network, trained):
        super().__init__()
        self.language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
        for name, parameter in self.language_model.network.named_parameters():
            parameter.requires_grad_(name in trained)

    def distribution(self, prompts):
        return self.language_model(prompts)


@pytest.mark.on_cpu
@pytest.mark.parametrize("kind", sorted({*PEFT_TYPE_TO_CONFIG_MAPPING} - {*NO_LAYERS.split()}))
def test_every_kind_is_saved_and_loaded_as_trained_or_refused_before(kind, tmp_path):
    make = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    options = {"target_modules": ["q_proj", "o_proj"]} | OTHERS.get(kind, {})
    config = make(**options)
    wrapped = scattered(peft.get_peft_model(base_of("llama", tmp_path / "base"), config))
    trained = {n.removeprefix(PREFIX) for n, p in wrapped.named_parameters() if p.requires_grad}
    if kind not in KINDS:
        with pytest.raises(PretrainedError, match=f"an adapter of kind {kind.value}, which is not"):
            Wrapped(wrapped, trained)
        if kind == "LILY":  # which `peft` cannot merge
            return
        merged = LanguageModel(wrapped.merge_and_unload(), tiny_tokenizer(), max_new_tokens=3)
        merged.save_pretrained(tmp_path / "merged")
        again = LanguageModel.from_pretrained(tmp_path / "merged", max_new_tokens=3, device="cpu")
        torch.testing.assert_close(again.network(IDS).logits, merged.network(IDS).logits)
        return
    guide = Wrapped(wrapped, trained)
    prior = LanguageModel(base_of("llama", tmp_path / "base"), tiny_tokenizer(), max_new_tokens=3)
    prompts = prior.encode(PROMPTS)
    start = log_guide_at(guide, prompts, response := prior(prompts).enumerate_support())
    model = AlignmentModel(prior, Length(prior), 1.0)
    fit(model, guide, prompts, num_steps=2, progress=False)
    guide.language_model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(5)
    again = LanguageModel.from_pretrained(
        tmp_path / "adapter", base=tmp_path / "base", max_new_tokens=3, device="cpu"
    )
    log_guide = log_guide_at(guide, prompts, response)
    assert (log_guide - start).abs().max() > 1e-5
    torch.testing.assert_close(again(prompts).log_prob(response), log_guide, atol=1e-6, rtol=0)


def adapter(tmp_path, **options):
    wrapped = scattered(
        peft.get_peft_model(base_of("gpt2", tmp_path / "base"), lora("gpt2", **options))
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def changed(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def configured(folder, **settings):
    record = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(record | settings))


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


def of_tensors(change):
    return lambda folder: changed(folder, change)


def of_config(**settings):
    return lambda folder: configured(folder, **settings)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (of_tensors(lambda t: t.pop(FIRST)), r"1 tensors differ, first .*c_attn.lora_A"),
        (of_tensors(lambda t: t.update(odd=torch.ones(2))), "1 tensors differ, first odd"),
        (of_tensors(lambda t: t.update({FIRST: t[FIRST].char()})), "int8, expected floating-point"),
        (
            of_config(peft_type="XLORA", adapters={"0": "elsewhere"}),
            "an adapter of kind XLORA, which is not",
        ),
        (of_config(r=3), "4 tensors differ"),
        (of_config(use_dora=True), "2 tensors differ, first .*magnitude"),
        (of_config(target_modules=["c_proj"]), "tensors differ"),
        (of_config(init_lora_weights="pissa"), "init_lora_weights='pissa', which changes"),
        (of_config(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
        (of_config(alora_invocation_tokens=[2]), "alora_invocation_tokens"),
        (of_config(megatron_config={"a": 1}, megatron_core="os"), "megatron_config"),
        (of_config(peft_type="NONE_SUCH"), "an adapter of kind NONE_SUCH, which is not"),
        (of_config(base_model_name_or_path=None), r"does not say of which network.*base=\.\.\."),
        (lambda folder: (folder / WEIGHTS).unlink(), "cannot load the adapter"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"none"), "cannot load the adapter"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{"),
            "cannot load the adapter",
        ),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused_by_name(change, fault, tmp_path):
    folder = adapter(tmp_path)
    change(folder)
    with pytest.raises(PretrainedError, match=fault):
        LanguageModel.from_pretrained(folder, max_new_tokens=3, device="cpu")


def test_a_base_that_is_not_whole_is_refused_under_an_adapter_too(tmp_path):
    folder = adapter(tmp_path)
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors.pop("transformer.h.1.ln_1.weight")
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PretrainedError, match=r"base lacks 1 of the weights .*ln_1"):
        LanguageModel.from_pretrained(folder, max_new_tokens=3, device="cpu")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (peft.PromptTuningConfig, "prompt"),
        (partial(peft.PromptEncoderConfig, encoder_hidden_size=4), "prompt"),
        (peft.PrefixTuningConfig, "prefix"),
    ],
)
def test_virtual_tokens_are_a_guide_and_no_prior(config, kind, tmp_path):
    """Refused as a prior with the advice to load a soft prompt, which reads as in `peft`."""
    wrapped = peft.get_peft_model(
        base_of("gpt2", tmp_path / "base"), config(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    prior = LanguageModel(base_of("gpt2", tmp_path / "base"), tiny_tokenizer(), max_new_tokens=3)
    guide = SoftPrompt(prior, kind=kind, num_virtual_tokens=2)
    guide.load_pretrained(tmp_path / "adapter")
    expected = wrapped(IDS, attention_mask=torch.ones_like(IDS)).logits[:, -1]
    logits, _ = guide.start(Prompts.from_ids(IDS.tolist(), [""] * len(IDS)))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    match = r"virtual tokens, not weights\. Make the guide `SoftPrompt`"
    with pytest.raises(PretrainedError, match=match):
        LanguageModel.from_pretrained(tmp_path / "adapter", max_new_tokens=3)
    with pytest.raises(ValueError, match="PeftModelForCausalLM with virtual tokens"):
        LanguageModel(wrapped, tiny_tokenizer(), max_new_tokens=3)
    peft.MultitaskPromptTuningConfig(num_virtual_tokens=2).save_pretrained(tmp_path / "adapter")
    with pytest.raises(PretrainedError, match=r"kind MULTITASK_PROMPT_TUNING: virtual"):
        LanguageModel.from_pretrained(tmp_path / "adapter", max_new_tokens=3)


def test_a_network_in_the_wrapper_of_peft_is_taken_out_of_it(tmp_path):
    wrapped = scattered(
        peft.get_peft_model(base_of("gpt2", tmp_path / "base"), lora("gpt2", use_dora=True))
    )
    expected = wrapped(IDS).logits
    prior = LanguageModel(wrapped, tiny_tokenizer(), max_new_tokens=3)
    torch.testing.assert_close(prior.network(IDS).logits, expected)
    prior.save_pretrained(tmp_path / "again")
    again = LanguageModel.from_pretrained(
        tmp_path / "again", base=tmp_path / "base", max_new_tokens=3, device="cpu"
    )
    torch.testing.assert_close(again.network(IDS).logits, expected, atol=1e-5, rtol=0)


# As a guide


def guide_and_base(folder):
    """A LoRA guide, and the network of its prior as `transformers` loads it from the folder."""
    prior = LanguageModel(base_of("gpt2", folder), tiny_tokenizer(), max_new_tokens=3)
    guide = LoRA(prior, rank=2, alpha=6, target_modules="c_attn")
    return guide, AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"modules_to_save": ["ln_f"]},
        {"layers_to_transform": [1]},
        {"lora_bias": True},
        {"alpha_pattern": {"c_attn": 1}},
        {"init_lora_weights": "olora"},
        {"r": 3},
    ],
)
def test_adapters_of_other_kinds_are_refused_as_a_guide(options, tmp_path):
    guide, other = guide_and_base(tmp_path / "base")
    config = peft.LoraConfig(
        **{"r": 2, "lora_alpha": 6, "target_modules": ["c_attn"], "fan_in_fan_out": True} | options
    )
    scattered(peft.get_peft_model(other, config)).save_pretrained(tmp_path / "adapter")
    before = [parameter.clone() for parameter in guide.trained().values()]
    with pytest.raises((OtherGuideError, PretrainedError)):
        guide.load_pretrained(tmp_path / "adapter")
    assert all(torch.equal(*pair) for pair in zip(before, guide.trained().values(), strict=True))


def test_an_adapter_of_peft_is_taken_up_as_a_guide(tmp_path):
    """DoRA of any origin loads; without magnitudes an adapter that claims DoRA is refused."""
    guide, other = guide_and_base(tmp_path / "base")
    wrapped = scattered(peft.get_peft_model(other, lora("gpt2", lora_dropout=0.1)))
    wrapped.save_pretrained(tmp_path / "adapter")
    guide.load_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(
        guide.language_model.network(IDS).logits, wrapped(IDS).logits, atol=1e-5, rtol=0
    )
    configured(tmp_path / "adapter", use_dora=True)
    with pytest.raises(OtherGuideError, match="use_dora True, expected None"):
        guide.load_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("make", [LoRA, SoftPrompt])
def test_folder_without_an_adapter_is_refused_as_a_guide(make, tmp_path):
    guide = make(tiny())
    with pytest.raises(PretrainedError, match=r"adapter_config.json is missing or damaged"):
        guide.load_pretrained(tmp_path)
    guide.save_pretrained(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / WEIGHTS).write_bytes(b"none")
    with pytest.raises(PretrainedError, match=r"adapter_model.safetensors is damaged"):
        guide.load_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(PretrainedError, match=r"has no adapter_model.safetensors"):
        guide.load_pretrained(tmp_path)


# Reward models


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("of_language_model", [True, False])
def test_an_adapter_with_a_head_is_the_classifier_that_peft_trained(
    num_labels, of_language_model, tmp_path
):
    """Base without a head, and base with a head for another number of labels."""
    base_of("gpt2", tmp_path / "base")
    if not of_language_model:
        config = GPT2Config(**GPT2_SIZES, num_labels=num_labels)
        GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "base")
    network = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=num_labels, pad_token_id=1
    )
    wrapped = scattered(peft.get_peft_model(network, lora("gpt2", task_type="SEQ_CLS")))
    wrapped.save_pretrained(tmp_path / "adapter")
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    tokenizer.save_pretrained(tmp_path / "adapter")
    texts = ["a b c", "b", "c a"]
    with torch.no_grad():
        expected = torch.cat(
            [wrapped(torch.tensor([tokenizer(text)["input_ids"]])).logits[:, -1] for text in texts]
        )
    label = None if num_labels == 1 else 2
    for classifier in (
        SequenceClassifier.from_pretrained(
            tmp_path / "adapter", label, output="logit", device="cpu"
        ),
        SequenceClassifier(wrapped, tokenizer, label, output="logit"),
    ):
        torch.testing.assert_close(classifier(texts), expected.double(), atol=1e-5, rtol=0)


def test_an_adapter_without_the_head_of_its_base_is_refused(tmp_path):
    base_of("gpt2", tmp_path / "base")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    peft.get_peft_model(network, lora("gpt2")).save_pretrained(tmp_path / "adapter")
    match = r"base lacks 1 of the weights of a GPT2ForSequenceClassification.*score"
    with pytest.raises(PretrainedError, match=match):
        SequenceClassifier.from_pretrained(tmp_path / "adapter", device="cpu")
