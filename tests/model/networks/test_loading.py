"""Checkpoints are loaded whole or refused by name, and nothing that comes with them runs."""

import io
import json
import pickle
import socket
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    CLIPConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    ModernBertConfig,
    ModernBertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from guides import FineTuned
from model import LanguageModel, SequenceClassifier, TextLikelihood
from model.networks.loading import load_network
from model.networks.source import PretrainedError, find_checkpoint, hub_name
from model.preferences import EncoderFeatures
from tests.model.tiny import ENCODER_SIZES, GPT2_SIZES, encoder, gpt2, llama, tiny, tiny_tokenizer

WEIGHTS = "model.safetensors"
LOADERS = {
    "prior": partial(LanguageModel.from_pretrained, max_new_tokens=3, device="cpu"),
    "likelihood": partial(TextLikelihood.from_pretrained, device="cpu"),
    "classifier": partial(SequenceClassifier.from_pretrained, label=0, device="cpu"),
    "features": partial(EncoderFeatures.from_pretrained, device="cpu"),
}


@pytest.fixture(params=LOADERS)
def load(request):
    return LOADERS[request.param]


@pytest.fixture
def folder(tmp_path, load):
    """A checkpoint that `load` can load."""
    torch.manual_seed(0)
    network = gpt2()
    if load is LOADERS["classifier"]:
        config = GPT2Config(**GPT2_SIZES, num_labels=3, pad_token_id=0)
        network = GPT2ForSequenceClassification(config)
    return saved(network, tmp_path / "checkpoint")


def saved(network, folder, tokenizer=None):
    """Folder of another program, without digests."""
    network.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def changed(folder, change):
    """The weights of a folder, changed."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def configured(folder, **settings):
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | settings))
    return folder


def key(folder, end):
    return next(name for name in load_file(folder / WEIGHTS) if name.endswith(end))


# Weights


def test_whole_checkpoint_loads(load, folder):
    load(folder)


FAULTS = {
    "missing": (
        "h.1.mlp.c_fc.weight",
        lambda tensors, name: tensors.pop(name),
        r"checkpoint lacks 1 of the weights of a GPT2.*: .*h\.1\.mlp\.c_fc\.weight",
    ),
    "of another shape": (
        "ln_f.weight",
        lambda tensors, name: tensors.update({name: torch.ones(7)}),
        r"ln_f.weight of shape \(7,\) instead of \(16,\)",
    ),
    "not finite": (
        "ln_f.bias",
        lambda tensors, name: tensors[name].fill_(torch.nan),
        r"weights that are NaN or infinite, the first of them .*ln_f.bias",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_weights_are_named(load, folder, fault):
    end, change, match = FAULTS[fault]
    name = key(folder, end)
    changed(folder, lambda tensors: change(tensors, name))
    with pytest.raises(PretrainedError, match=match):
        load(folder)


def test_weights_that_the_network_has_no_place_for_are_named(load, folder):
    """Weights of one block more than config.json has."""
    configured(folder, n_layer=1)
    match = r"has 11 weights that a GPT2.* of its config.json has no place for: .*h\.1\."
    with pytest.raises(PretrainedError, match=match):
        load(folder)


def test_a_scale_of_a_head_that_has_no_place_is_named(load, folder):
    """Extra tensor like in a quantised output layer; a head of another name may be left over."""
    head = "score" if load is LOADERS["classifier"] else "lm_head"
    changed(folder, lambda tensors: tensors.update({f"{head}.weight_scale": torch.ones(1)}))
    if load is LOADERS["features"]:
        load(folder)  # which reads no head
    else:
        match = rf"has 1 weights that .* has no place for: {head}.weight_scale"
        with pytest.raises(PretrainedError, match=match):
            load(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_in_other_types_than_numbers_with_a_point_are_named(load, folder, dtype):
    name = key(folder, "c_attn.weight")
    changed(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    match = rf"{WEIGHTS} has .*c_attn.weight in the type .*, expected floating-point"
    with pytest.raises(PretrainedError, match=match):
        load(folder)


@pytest.mark.parametrize("data", ["", "{oops", "[]"])
def test_settings_of_generation_that_are_damaged_are_not_passed_over(data, tmp_path):
    """Generation settings may name an end that no other file names."""
    folder = saved(gpt2(), tmp_path)
    (folder / "generation_config.json").write_text(data)
    for name in ("prior", "likelihood"):
        with pytest.raises(PretrainedError, match="cannot load the network"):
            LOADERS[name](folder)
    (folder / "generation_config.json").unlink()
    LOADERS["prior"](folder)


@pytest.mark.parametrize("end", ["<end>", -1, [0, -1], 0.5, [0, "<end>"], True])
def test_end_that_is_no_token_id_is_named(end, tmp_path):
    folder = saved(gpt2(), tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    match = r"end of a text by the generation settings has .*, expected a token id"
    with pytest.raises(ValueError, match=match):
        LOADERS["prior"](folder)


def test_a_language_model_is_no_classifier_and_a_classifier_no_language_model(tmp_path):
    """Else another head would be drawn in every process."""
    folder = saved(gpt2(), tmp_path / "language-model")
    match = r"lacks 1 of the weights of a GPT2ForSequenceClassification.*score\.weight"
    with pytest.raises(PretrainedError, match=match):
        LOADERS["classifier"](folder)
    folder = saved(encoder(), tmp_path / "encoder")
    for name in ("prior", "likelihood"):
        with pytest.raises(PretrainedError, match=r"lacks .* of the weights of a BertLMHeadModel"):
            LOADERS[name](folder)


OTHERS = {
    "labels of texts": (GPT2ForSequenceClassification, GPT2Config(**GPT2_SIZES, pad_token_id=0)),
    "labels of tokens": (GPT2ForTokenClassification, GPT2Config(**GPT2_SIZES, pad_token_id=0)),
    "the same names": (
        ModernBertForTokenClassification,
        ModernBertConfig(**ENCODER_SIZES, pad_token_id=1, cls_token_id=None, sep_token_id=None),
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_weights_of_another_task_are_refused_where_they_fit(kind, tmp_path):
    """A tied output layer is not missing, and two heads of ModernBERT have the same names."""
    make, config = OTHERS[kind]
    folder = saved(make(config), tmp_path, tiny_tokenizer(pad_token="<pad>"))
    for name in ("classifier",) if kind == "the same names" else ("prior", "likelihood"):
        with pytest.raises(PretrainedError, match=f"weights of a {make.__name__}, expected those"):
            LOADERS[name](folder)
    LOADERS["features"](folder)


def test_tied_weights_and_weights_of_another_head_are_no_fault(tmp_path):
    """Tied weights are saved once, old buffers are computed, features need no head."""
    folder = saved(gpt2(), tmp_path / "checkpoint")
    assert not any("lm_head" in name for name in load_file(folder / WEIGHTS))
    old = {"score.weight": torch.ones(2, 16), "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    changed(folder, lambda tensors: tensors.update(old))
    prior = LOADERS["prior"](folder)
    assert torch.equal(prior.network.lm_head.weight, prior.network.transformer.wte.weight)
    LOADERS["features"](folder)


@pytest.mark.on_cpu
def test_an_encoder_needs_no_pooler(tmp_path):
    """Pooler: not read by features, absent from checkpoints of masked language models."""
    network = BertForMaskedLM(BertConfig(**ENCODER_SIZES, pad_token_id=1)).eval()
    assert not any("pooler" in name for name in network.state_dict())
    features = LOADERS["features"](saved(network, tmp_path, tiny_tokenizer(pad_token="<pad>")))
    expected = network.bert(torch.tensor([[2, 3]])).last_hidden_state[0].mean(0).double()
    assert torch.allclose(features(["a b"])[0], expected, atol=1e-6)


def test_untied_output_layers_are_the_ones_saved(tmp_path):
    """A config that says tied, weights that are not."""
    torch.manual_seed(0)
    network = llama()
    assert not network.config.tie_word_embeddings
    folder = configured(saved(network, tmp_path), tie_word_embeddings=True)
    try:
        loaded = LOADERS["prior"](folder)
    except PretrainedError as error:
        assert "lm_head" in str(error)  # noqa: PT017 - either is right
        return
    ids = torch.tensor([[2, 3]])
    assert torch.allclose(loaded.network(ids).logits, network.eval()(ids).logits, atol=1e-5)


def test_a_tuned_network_is_taken_up_whole_or_not_at_all(tmp_path):
    guide = FineTuned(tiny(dtype=torch.float32))
    guide.language_model.network.save_pretrained(tmp_path)
    guide.load_pretrained(tmp_path)
    before = [parameter.clone() for parameter in guide.parameters()]
    changed(tmp_path, lambda tensors: tensors.pop("transformer.h.1.ln_1.weight"))
    with pytest.raises(PretrainedError, match="lacks 1 of the weights"):
        guide.load_pretrained(tmp_path)
    nothing = {"transformer.h.1.ln_1.weight": torch.full((16,), torch.nan)}
    changed(tmp_path, lambda tensors: tensors.update(nothing))
    match = r"NaN or infinite, the first of them transformer.h.1.ln_1.weight"
    with pytest.raises(PretrainedError, match=match):
        guide.load_pretrained(tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, guide.parameters(), strict=True))


# Files


def test_a_file_that_is_cut_off_is_named(load, folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(PretrainedError, match=r"cannot load the network of .*checkpoint"):
        load(folder)


def test_a_missing_shard_is_named(tmp_path):
    network = gpt2()
    network.save_pretrained(tmp_path, max_shard_size="10KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    LOADERS["prior"](tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(PretrainedError, match="cannot load the network"):
        LOADERS["prior"](tmp_path)


@pytest.mark.parametrize("absent", ["config.json", WEIGHTS])
def test_a_folder_without_one_of_its_files_is_named(load, folder, absent):
    (folder / absent).unlink()
    with pytest.raises(PretrainedError, match=r"cannot load the network of .*checkpoint"):
        load(folder)


def test_a_pickle_runs_nothing(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = saved(gpt2(), tmp_path / "checkpoint")
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"transformer.wte.weight": Code()}))
    with pytest.raises(PretrainedError, match="cannot load the network"):
        LOADERS["prior"](folder)
    assert not (tmp_path / "ran").exists()


def test_a_plain_state_dict_in_a_pickle_is_read(tmp_path):
    network = gpt2().eval()
    folder = saved(network, tmp_path / "checkpoint")
    (folder / WEIGHTS).unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    ids = torch.tensor([[2, 3]])
    torch.testing.assert_close(LOADERS["prior"](folder).network(ids).logits, network(ids).logits)


def test_weights_that_load_in_another_type_are_refused(tmp_path, monkeypatch):
    folder = saved(gpt2(), tmp_path)
    real = AutoModelForCausalLM.from_pretrained

    def narrow(*args, **options):
        network, info = real(*args, **options)
        network.transformer.ln_f.half()
        return network, info

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", narrow)
    match = r"quantised, or .* cannot be had as torch.float32: .*ln_f.weight is torch.float16"
    with pytest.raises(PretrainedError, match=match):
        LOADERS["prior"](folder)


# Tokenizers


@pytest.mark.parametrize("keep", [False, True], ids=["no file", "its settings alone"])
def test_a_folder_without_its_tokenizer_is_refused(load, folder, keep):
    """`transformers` would build a tokenizer that turns every text into nothing."""
    (folder / "tokenizer.json").unlink()
    if not keep:
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(PretrainedError, match=r"tokenizer of .*checkpoint"):
        load(folder)


@pytest.mark.parametrize("name", ["prior", "likelihood", "classifier", "features"])
def test_tokens_without_embeddings_are_named_with_their_text(name, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["d"])
    torch.manual_seed(0)
    network = gpt2()
    if name == "classifier":
        network = GPT2ForSequenceClassification(
            GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2, pad_token_id=0)
        )
    loaded = LOADERS[name](saved(network, tmp_path, tokenizer))
    read = loaded.encode if name == "prior" else loaded
    read(["a b", "c"])
    match = r"the text 'a d' has the token 'd', id 5, and the network has embeddings of 5 ids"
    with pytest.raises(ValueError, match=match):
        read(["a b", "a d"])


# Paths


def without_hosts(*_, **__):
    """Answer of a machine without a network to any look-up of a host."""
    raise socket.gaierror("no network")


@pytest.fixture
def no_patience(monkeypatch):
    """No host is there, and a pause before another attempt ends the test."""
    monkeypatch.setattr(socket, "getaddrinfo", without_hosts)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited for another attempt"))


NO_PATHS = ["./none", "../none", "~/none-of-that-name", "/none/at/all", "a/b/c", "runs\\x"]


@pytest.mark.parametrize("path", [*NO_PATHS, "", "-x", "film reviews", "x/"])
@pytest.mark.usefixtures("no_patience")
def test_a_mistyped_path_is_refused_at_once(path, load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.networks.source._hub_answers", lambda: pytest.fail("asked the hub"))
    with pytest.raises(PretrainedError, match="there is no folder"):
        load(path)


def test_name_inside_an_existing_folder_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PretrainedError, match="there is no folder 'runs/tuned'"):
        find_checkpoint("runs/tuned")
    with pytest.raises(PretrainedError, match=r"notes\.txt is a file, expected the folder"):
        find_checkpoint("notes.txt")
    with pytest.raises(PretrainedError, match="there is no folder"):
        find_checkpoint(tmp_path / "tuned")
    assert find_checkpoint("runs") == "runs"
    assert find_checkpoint("someone/a-model") == "someone/a-model"
    assert hub_name("someone/a-model") == "someone/a-model"
    assert not any(map(hub_name, ("runs", "runs/tuned", "/a", "", None)))
    with pytest.raises(TypeError, match="name_or_path is a int"):
        find_checkpoint(3)


def test_a_folder_without_a_network_is_refused_by_the_missing_file(load, tmp_path):
    (tmp_path / "arguments.json").write_text("{}")
    expected = r"the folder has no network, expected config\.json or adapter_config\.json"
    with pytest.raises(PretrainedError, match=expected + " in the folder$"):
        load(tmp_path)
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "adapter_config.json").write_text("{}")
    with pytest.raises(PretrainedError, match=expected + " in the folder, as in .* 'guide'$"):
        load(tmp_path)


@pytest.mark.usefixtures("no_patience")
def test_a_silent_hub_is_not_waited_for(load, monkeypatch, tmp_path):
    """With a silent hub, only the cache is searched, and the error says so."""
    from huggingface_hub import constants

    questions = []
    monkeypatch.setattr("model.networks.source._hub_answers", lambda: questions.append(1))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    match = r"of someone/a-model, which is no folder here, from the hub or its cache"
    with pytest.raises(PretrainedError, match=match):
        load("someone/a-model")
    assert questions


# Code


CODE = """
import pathlib
from transformers import {base} as Base
pathlib.Path({marker!r}).write_text("ran")
class Custom(Base):
    model_type = "custom"
"""


@pytest.mark.parametrize("part", ["config", "network", "tokenizer", "generate"])
def test_code_of_a_checkpoint_does_not_run_whatever_stands_on_standard_input(
    load, folder, part, tmp_path, monkeypatch
):
    marker = tmp_path / "ran"
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    base = {"tokenizer": "PreTrainedTokenizerFast", "network": "GPT2LMHeadModel"}.get(
        part, "GPT2Config"
    )
    (folder / "custom.py").write_text(CODE.format(base=base, marker=str(marker)))
    if part == "config":
        configured(folder, model_type="custom", auto_map={"AutoConfig": "custom.Custom"})
    elif part == "network":
        names = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
        own = dict.fromkeys((*names, "AutoConfig"), "custom.Custom")
        configured(folder, model_type="custom", auto_map=own)
    elif part == "tokenizer":
        record = json.loads((folder / "tokenizer_config.json").read_text())
        own = {"AutoTokenizer": [None, "custom.Custom"]}
        record |= {"tokenizer_class": "Custom", "auto_map": own}
        (folder / "tokenizer_config.json").write_text(json.dumps(record))
    else:
        (folder / "custom_generate").mkdir()
        code = CODE.format(base=base, marker=str(marker))
        (folder / "custom_generate" / "generate.py").write_text(code)
    if part in ("tokenizer", "generate"):
        load(folder)  # `transformers` has a class for this model and ignores the other class
        assert not marker.exists()
        return
    match = r"checkpoint comes with code of its own .* pass trust_remote_code=True"
    with pytest.raises(PretrainedError, match=match):
        load(folder)
    assert not marker.exists()


def test_code_of_a_checkpoint_runs_where_that_is_allowed(tmp_path):
    """The control: the code would have run."""
    folder, marker = saved(gpt2(), tmp_path / "checkpoint"), tmp_path / "ran"
    (folder / "custom.py").write_text(CODE.format(base="GPT2Config", marker=str(marker)))
    configured(folder, model_type="custom", auto_map={"AutoConfig": "custom.Custom"})
    # there is no network of such a configuration
    with pytest.raises(PretrainedError, match="cannot load the network"):
        LOADERS["prior"](folder, trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize(
    "name", ["attn_implementation", "_attn_implementation", "experts_implementation"]
)
def test_kernels_that_a_config_names_are_not_fetched(name, load, folder):
    """Kernels would be code of the hub, if the package `kernels` is installed."""
    kernel = "deepgemm" if "experts" in name else "someone/kernel"
    match = rf"config.json of .* asks for the code '{kernel}' of the hub, which is not run"
    with pytest.raises(PretrainedError, match=match):
        load(configured(folder, **{name: kernel}))


def test_code_beside_a_tuned_network_has_no_say(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    guide = FineTuned(tiny(dtype=torch.float32))
    guide.language_model.network.save_pretrained(tmp_path)
    (tmp_path / "custom.py").write_text(
        CODE.format(base="GPT2LMHeadModel", marker=str(tmp_path / "ran"))
    )
    configured(
        tmp_path, auto_map={"AutoModelForCausalLM": "custom.Custom", "AutoConfig": "custom.Custom"}
    )
    guide.load_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


# Networks that are handed over


def test_networks_that_are_none_are_named():
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    for make in (
        lambda network: LanguageModel(network, tokenizer, max_new_tokens=2),
        lambda network: TextLikelihood(network, tokenizer),
        lambda network: SequenceClassifier(network, tokenizer, 0),
        lambda network: EncoderFeatures(network, tokenizer),
    ):
        match = r"network is a str, expected a PreTrainedModel: .*from_pretrained"
        with pytest.raises(TypeError, match=match):
            make("model/film_reviews")
        with torch.device("meta"):
            empty = gpt2()
        with pytest.raises(ValueError, match="weights of GPT2LMHeadModel are on the meta device"):
            make(empty)
    with pytest.raises(TypeError, match="tokenizer is a str"):
        LanguageModel(gpt2(), "model/film_reviews", max_new_tokens=2)
    with pytest.raises(ValueError, match="GPT2LMHeadModel writes tokens and has no labels"):
        SequenceClassifier(gpt2(), tokenizer, 0)


def test_checkpoints_that_are_no_causal_language_models_are_refused_by_their_kind(tmp_path):
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 5}
    kinds = {
        "T5Config": T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1),
        "BartConfig": BartConfig(**sizes, encoder_attention_heads=1, decoder_attention_heads=1),
        "CLIPConfig": CLIPConfig(),
    }
    for kind, config in kinds.items():
        folder = tmp_path / kind
        tiny_tokenizer().save_pretrained(folder)
        config.save_pretrained(folder)
        match = f"config.json is a {kind}, which AutoModelForCausalLM does not load: expected"
        if config.is_encoder_decoder:
            match = f"is a {config.model_type}, which has an encoder and a decoder: expected"
        with pytest.raises(PretrainedError, match=match):
            LanguageModel.from_pretrained(folder, max_new_tokens=2)
    with pytest.raises(PretrainedError, match="T5Config, which AutoModelForMaskedLM does not load"):
        load_network(AutoModelForMaskedLM, tmp_path / "T5Config")


def test_networks_that_read_in_both_directions_write_nothing():
    torch.manual_seed(2)  # the token that follows moves logits by 0.0005 of the largest
    both_ways = BertLMHeadModel(BertConfig(**ENCODER_SIZES))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    for make in (
        lambda network: LanguageModel(network, tiny_tokenizer(), max_new_tokens=2, end_ids=[0]),
        lambda network: TextLikelihood(network, tiny_tokenizer()),
    ):
        match = "BertLMHeadModel after a token depend on the token that follows"
        with pytest.raises(ValueError, match=match):
            make(both_ways)
        make(BertLMHeadModel(BertConfig(**ENCODER_SIZES, is_decoder=True)))
    match = "T5ForConditionalGeneration has an encoder and a decoder, expected a decoder alone"
    with pytest.raises(ValueError, match=match):
        TextLikelihood(t5, tiny_tokenizer())
    match = r"T5\w+ has an encoder and a decoder: use `network\.get_encoder"
    with pytest.raises(ValueError, match=match):
        EncoderFeatures(
            t5.model if hasattr(t5, "model") else t5.base_model, tiny_tokenizer(pad_token="<pad>")
        )


def test_default_type_is_the_type_on_disk(tmp_path):
    saved(gpt2().half(), tmp_path)
    assert load_network(AutoModelForCausalLM, tmp_path, device="cpu").dtype == torch.float16
