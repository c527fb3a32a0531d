"""LoRA: adapters around the prior's own weights, of which the prior learns nothing."""

import copy
import json
import re
import warnings
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SiglipVisionConfig,
)

from guides import LoRA
from guides.guide import OtherGuideError
from guides.model_card import ModelCard
from guides.saved import save_guide
from inference import OBJECTIVES, FusedOptimizer, fit, response_distribution
from model import AlignmentModel, LanguageModel, TextReward
from model.networks.layers.fused_layers import fused_layers
from tests.model.generation import assert_generates
from tests.model.tiny import NETWORKS, PROMPTS, SPECIAL, WORDS, tiny, tiny_tokenizer

# llama norms its activations in float32
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=0)


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


@pytest.fixture(params=["no adapter", "adapter"])
def prior(request, network, tmp_path):
    """Prior in float64, without and with an adapter on its network."""
    plain = tiny(network)
    return plain if request.param == "no adapter" else with_adapter(plain, tmp_path / "prior")


def with_adapter(language_model, folder):
    """Load a folder of an adapter like `AutoModelForCausalLM.from_pretrained`."""
    language_model.network.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=language_model.network.dtype)
    names = ["c_attn"] if hasattr(base, "transformer") else ["q_proj", "o_proj"]
    options = {"target_modules": names, "fan_in_fan_out": "c_attn" in names}
    config = peft.LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, **options)
    wrapped = peft.get_peft_model(base, config)
    wrapped.save_pretrained(folder / "adapter")
    network = AutoModelForCausalLM.from_pretrained(
        folder / "adapter", dtype=language_model.network.dtype
    )
    return LanguageModel(network, tiny_tokenizer(), max_new_tokens=language_model.max_new_tokens)


def moved(guide):
    """Away from the prior."""
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    return guide


def sentiment(texts):
    return [text.count("a") - text.count("b") for text in texts]


def model_of(prior):
    return AlignmentModel(prior, TextReward(sentiment, prior, upper_bound=3.0), 1.0)


def all_paths(prior):
    """All outputs of a prior: scores by token and response, logits, hidden states, draws."""
    distribution = prior(prior.encode(PROMPTS))
    support = distribution.enumerate_support()
    torch.manual_seed(3)
    response = distribution.sample((64,))
    return [
        distribution.log_prob(support),
        *distribution.log_prob_and_hidden(support),
        distribution.next_token_logits(support),
        response,
        distribution.sample_suffix(response, torch.zeros(64, 3, dtype=torch.long)),
    ]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def assert_loads_and_merges(guide, folder, **options):
    """The saved adapter is the guide to the last bit, and the merged network up to rounding."""
    guide.save_pretrained(folder)
    again = LoRA(guide.prior, **options)
    again.load_pretrained(folder)
    assert same(all_paths(again.language_model), all_paths(guide.language_model))
    assert_close(all_paths(guide.merged())[0], all_paths(guide.language_model)[0])


def layers_of(guide):
    """Last names of the adapted layers."""
    return {name.split(".lora_")[0].rsplit(".", 1)[1] for name in guide.trained()}


def test_prior_stays_bit_for_bit_before_during_and_after_training(prior):
    before, tensors = all_paths(prior), copy.deepcopy(prior.state_dict())
    guide, model, prompts = LoRA(prior), model_of(prior), prior.encode(PROMPTS)
    start = all_paths(guide.language_model)
    assert same(all_paths(prior), before)
    assert same(start, before)  # so does the guide, until it moves
    steps = []

    def check(_):
        moves = not same(all_paths(guide.language_model), before)
        steps.append(moves and same(all_paths(prior), before))

    options = {"objective": OBJECTIVES["leave-one-out"](num_particles=16), "on_step": check}
    options |= {"optimizer": FusedOptimizer(options={"lr": 0.01}), "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, guide, prompts, num_steps=5, **options)
    assert steps == [True] * 5
    assert same(all_paths(response_distribution(model, prompts).decoder), before)
    assert prior.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in prior.state_dict().items())
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in prior.parameters()
    )


def test_one_copy_in_memory(prior):
    guide = moved(LoRA(prior))
    own = {id(parameter) for parameter in guide.trained().values()}
    of_prior = {tensor.data_ptr() for tensor in [*prior.parameters(), *prior.buffers()]}
    tensors = [*guide.language_model.parameters(), *guide.language_model.buffers()]
    assert {tensor.data_ptr() for tensor in tensors if id(tensor) not in own} == of_prior
    places = {parameter.data_ptr() for parameter in guide.parameters()}
    assert len(places) == len(own) + len(list(prior.parameters()))
    assert not of_prior & {parameter.data_ptr() for parameter in guide.trained().values()}


def test_prior_moves_with_its_weights(network):
    prior = tiny(network)
    guide = LoRA(prior).to(torch.float32)
    tensors = [*prior.parameters(), *prior.buffers()]
    assert {each.dtype for each in tensors if each.is_floating_point()} == {torch.float32}
    assert same(all_paths(prior), all_paths(guide.language_model))


def test_peft_alone_loads_it(prior, tmp_path):
    guide = moved(LoRA(prior, rank=3, alpha=4.0))
    guide.save_pretrained(tmp_path / "guide")
    assert all(
        ".lora_" in name for name in load_file(tmp_path / "guide" / "adapter_model.safetensors")
    )
    ids = torch.tensor([[2, 3, 4], [4, 0, 3]])
    expected = guide.language_model.network(ids).logits
    folder = tmp_path / "prior" / "base"
    prior_had_one = folder.is_dir()
    if not prior_had_one:
        prior.network.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    if prior_had_one:
        loaded = peft.PeftModel.from_pretrained(
            loaded, tmp_path / "prior" / "adapter", adapter_name="first"
        )
        loaded.load_adapter(tmp_path / "guide", "second")
        loaded.base_model.set_adapter(["first", "second"])
    else:
        loaded = peft.PeftModel.from_pretrained(loaded, tmp_path / "guide")
    fused_layers(loaded)  # as in every language model here
    assert torch.equal(loaded.eval()(ids).logits, expected)


def test_generate_of_the_adapter_draws_from_the_guide_by_the_settings_of_its_card(tmp_path):
    """Whatever the settings of the base, which are no part of the guide."""
    prior = tiny(temperature=0.7, max_new_tokens=6)
    prompts = prior.encode(["a b c a"] * 7)
    guide = moved(LoRA(prior))
    card = ModelCard(loading={"temperature": prior.temperature})
    save_guide(tmp_path, guide, "lora", {}, prompts, card, temperature=prior.temperature)
    base = copy.deepcopy(prior.network)
    others = {"temperature": 0.3, "top_k": 1, "top_p": 0.2, "repetition_penalty": 3.0}
    base.generation_config.update(**others)
    network = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    text = (tmp_path / "README.md").read_text()
    quoted = ", ".join(['"a b c a"'] * 5)
    assert f"| prompts (7) | {quoted} and 2 more |" in text
    [settings] = re.findall(r"```\n(do_sample=.*)\n```", text)
    assert_generates(network, guide.language_model, max_new_tokens=6, **eval(f"dict({settings})"))


def test_saved_names_a_base_on_the_hub_and_no_path_of_this_machine(network, tmp_path):
    tiny(network).save_pretrained(tmp_path / "base")
    prior = LanguageModel.from_pretrained(tmp_path / "base", max_new_tokens=3)
    LoRA(prior).save_pretrained(tmp_path / "guide")
    base = tmp_path / "base"
    # tokenizer and all
    again = LanguageModel.from_pretrained(tmp_path / "guide", base=base, max_new_tokens=3)
    assert same(all_paths(again), all_paths(prior))
    LoRA(again).save_pretrained(tmp_path / "second")
    prior.network.name_or_path = "someone/a-model"
    LoRA(prior).save_pretrained(tmp_path / "of-hub")
    bases = [
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("guide", "second", "of-hub")
    ]
    names = [config["base_model_name_or_path"] for config in bases]
    assert names == [None, None, "someone/a-model"]
    match = r"guide is an adapter that does not say of which network: name it \(`base=...`\)"
    with pytest.raises(ValueError, match=match):
        LanguageModel.from_pretrained(tmp_path / "guide", max_new_tokens=3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"rank": 4}, "shape"),
        ({"rank": 8, "alpha": 3.0}, "lora_alpha 16, expected 3.0"),
        ({"target_modules": "c_proj"}, "c_attn"),
    ],
)
def test_other_guide_is_refused(other, message, tmp_path):
    prior = tiny()
    moved(LoRA(prior)).save_pretrained(tmp_path)
    guide = moved(LoRA(prior, **{"alpha": 16} | other))
    before = [parameter.clone() for parameter in guide.trained().values()]
    with pytest.raises(OtherGuideError, match=message):
        guide.load_pretrained(tmp_path)
    assert same(guide.trained().values(), before)


def test_merged_is_the_guide_up_to_rounding_without_peft(prior, tmp_path):
    guide = moved(LoRA(prior))
    of_guide, of_prior = all_paths(guide.language_model), all_paths(prior)
    merged = guide.merged()
    assert_close(all_paths(merged)[0], of_guide[0])
    assert not torch.allclose(of_guide[0], of_prior[0], atol=0.1)
    assert same(all_paths(guide.language_model), of_guide)
    assert same(all_paths(prior), of_prior)
    own, others = ({p.data_ptr() for p in module.parameters()} for module in (merged, guide))
    assert own.isdisjoint(others)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    assert not any("peft" in type(module).__module__ for module in merged.modules())
    assert not hasattr(merged.network, "peft_config")
    merged.save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    again = LanguageModel.from_pretrained(
        tmp_path / "merged", max_new_tokens=3, dtype=torch.float64
    )
    assert isinstance(again.network, PreTrainedModel)
    assert same(all_paths(again), all_paths(merged))


def test_priors_adapter_stays_on_and_is_not_trained_or_saved(network, tmp_path):
    prior = with_adapter(tiny(network), tmp_path / "prior")
    guide = LoRA(prior)
    assert guide.adapter not in prior.network.peft_config
    assert prior.network.active_adapters() == ["default"]
    assert guide.language_model.network.active_adapters() == ["default", guide.adapter]
    assert all(f".{guide.adapter}." in name for name in guide.trained())
    assert not any("lora_" in name or "base_layer" in name for name in guide.config.target_modules)
    with pytest.raises(ValueError, match="fits no linear layer"):
        LoRA(prior, target_modules="base_layer")
    guide.save_pretrained(tmp_path / "guide")
    saved = load_file(tmp_path / "guide" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == guide.num_trained_parameters()


def test_adapters_of_the_prior_that_are_off_stay_off(network, tmp_path):
    prior = with_adapter(tiny(network), tmp_path)
    on = all_paths(prior)
    prior.network.disable_adapters()
    off = all_paths(prior)
    guide = LoRA(prior)
    assert not same(off, on)
    assert same(all_paths(guide.language_model), off)
    moved(guide)
    assert not same(all_paths(guide.language_model), off)
    assert_close(all_paths(guide.merged())[0], all_paths(guide.language_model)[0])


def test_guide_on_a_guide(network):
    first = moved(LoRA(tiny(network)))
    of_first = all_paths(first.language_model)
    second = LoRA(first.language_model, rank=2)
    assert same(all_paths(second.language_model), of_first)
    assert first.adapter != second.adapter
    moved(second)
    assert same(all_paths(first.language_model), of_first)
    assert not same(all_paths(second.language_model), of_first)


@pytest.mark.parametrize(
    ("dtype", "adapters"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_dtypes(network, dtype, adapters):
    prior = tiny(network, getattr(torch, dtype))
    before = all_paths(prior)
    guide = LoRA(prior)
    assert same(all_paths(guide.language_model), before)
    assert {parameter.dtype for parameter in guide.trained().values()} == {getattr(torch, adapters)}
    assert {parameter.dtype for parameter in prior.parameters()} == {getattr(torch, dtype)}
    options = {"objective": OBJECTIVES["reward-to-go"](num_particles=8), "progress": False}
    result = fit(model_of(prior), guide, prior.encode(PROMPTS), num_steps=3, **options)
    assert result.stopped_early is None
    assert same(all_paths(prior), before)
    assert not same(all_paths(guide.language_model), before)
    assert guide.merged().network.dtype == getattr(torch, dtype)


def test_no_warnings_and_the_scale_is_alpha_by_rank(prior):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guides = [
            moved(LoRA(prior, rank=2, alpha=alpha, target_modules="all-linear"))
            for alpha in (1.0, 2.0)
        ]
    for guide in guides:
        for index, parameter in enumerate(guide.trained().values()):
            torch.manual_seed(index)
            torch.nn.init.normal_(parameter)
    prompts = prior.encode(PROMPTS)
    for guide, factor in zip(guides, (1, 0.5), strict=True):
        with torch.no_grad():
            for name, parameter in guide.trained().items():
                parameter *= factor if "lora_B" in name else 1
    response = prior(prompts).enumerate_support()
    assert_close(*(guide.distribution(prompts).log_prob(response) for guide in guides))


OF_LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("name", "target_modules", "adapted"),
    [
        ("gpt2", "all-linear", {"c_attn", "c_proj", "c_fc"}),
        ("llama", "all-linear", OF_LLAMA),
        ("llama", "q_proj, v_proj", {"q_proj", "v_proj"}),
        ("llama", r"layers\.1\..*_proj", OF_LLAMA),
        ("gpt2", "h.0.attn.c_proj", {"c_proj"}),
        ("llama", "lm_head", {"lm_head"}),
    ],
)
def test_target_modules(name, target_modules, adapted):
    prior = tiny(name)
    guide = moved(LoRA(prior, target_modules=target_modules))
    assert layers_of(guide) == adapted
    for number in re.findall(r"\d", target_modules):
        assert all(f".{number}." in name for name in guide.trained())
    assert_close(all_paths(guide.merged())[0], all_paths(guide.language_model)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": "q_proj"},
            "'q_proj', which fits no linear layer: expected some of c_attn, c_fc, c_proj",
        ),
        ({"target_modules": "c_attn,"}, "''"),
        ({"target_modules": "c_attn,lm_head"}, "'lm_head'"),  # tied to the embedding
        ({"target_modules": "wte"}, "'wte'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LoRA(tiny(), **options)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=["q_proj"], lora_bias=True),  # which has no bias
        peft.IA3Config(target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True),
        peft.LoraConfig(target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True),
        peft.LoraConfig(target_modules=["wte"]),
    ],
)
def test_adapters_that_cannot_be_combined(config):
    prior = tiny("llama" if "q_proj" in config.target_modules else "gpt2")
    prior.network.add_adapter(config)
    with pytest.raises(ValueError, match="cannot be combined"):
        LoRA(prior)


def experts():
    """Random mixture of experts whose first block has no experts."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "moe_intermediate_size": 8}
    sizes |= {"intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    heads |= {"head_dim": 8}
    config = Qwen3MoeConfig(**sizes, **heads, **SPECIAL, mlp_only_layers=[0], initializer_range=0.3)
    torch.manual_seed(0)
    return LanguageModel(Qwen3MoeForCausalLM(config), tiny_tokenizer(), max_new_tokens=3)


def test_routers_that_are_linear_layers_by_class_alone_are_left_out():
    """The router of a Phi mixture returns more than a product."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = PhimoeConfig(**sizes, **heads, **SPECIAL, num_local_experts=4, initializer_range=0.3)
    prior = LanguageModel(PhimoeForCausalLM(config), tiny_tokenizer(), max_new_tokens=3)
    guide = moved(LoRA(prior))
    assert not any("router" in name for name in guide.trained())
    assert_close(all_paths(guide.merged())[0], all_paths(guide.language_model)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_linear_layers_with_code_of_their_own_are_adapted(dtype, tmp_path):
    """All linear layers of Falcon are of a class of its own, which computes the same product."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "ffn_hidden_size": 32}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "bias": True}
    config = FalconConfig(**sizes, **heads, **SPECIAL, initializer_range=0.3)
    torch.manual_seed(0)
    network = FalconForCausalLM(config).to(dtype)
    guide = moved(LoRA(LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)))
    assert layers_of(guide) == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    guide.save_pretrained(tmp_path)
    again = LoRA(guide.prior)
    again.load_pretrained(tmp_path)
    assert same(all_paths(again.language_model), all_paths(guide.language_model))
    if dtype == torch.float64:
        assert_close(all_paths(guide.merged())[0], all_paths(guide.language_model)[0])


def test_network_without_a_layer_to_adapt_is_refused():
    network = copy.deepcopy(tiny("llama").network)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    for layer in layers:
        layer.__class__ = Doubled
    prior = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no linear layer that `peft` adapts"):
        LoRA(prior)


class Doubled(torch.nn.Linear):
    """A layer of a network's own code that is no linear layer."""

    def forward(self, x):
        return 2 * super().forward(x)


Doubled.forward.__module__ = "transformers.models.doubled"


def test_layers_that_peft_takes_for_experts_are_left_out(tmp_path):
    """`peft` would adapt the experts in place of layers of these names, without a word."""
    prior = experts()
    guide = moved(LoRA(prior))
    assert layers_of(guide) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(ValueError, match="'down_proj', which fits no linear layer"):
        LoRA(prior, target_modules="down_proj")
    assert_loads_and_merges(guide, tmp_path)


def test_merged_adapter_of_the_prior_is_refused(network, tmp_path):
    prior = with_adapter(tiny(network), tmp_path)
    for module in prior.network.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    with pytest.raises(ValueError, match="not merged"):
        LoRA(prior)


def test_layers_of_other_packages_with_a_product_of_their_own_are_adapted():
    """Quantized layers derive from `nn.Linear` too."""

    class Rounded(torch.nn.Linear):
        def forward(self, hidden):
            return torch.nn.functional.linear(hidden, self.weight.half().to(hidden))

    prior = tiny("llama")
    for layer in prior.network.model.layers:
        layer.mlp.down_proj.__class__ = Rounded
    assert any("down_proj" in name for name in LoRA(prior).trained())


def reader_of_images():
    """A language model whose network can read images too."""
    text = {"vocab_size": len(WORDS), "intermediate_size": 32, "head_dim": 8}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    image = {"hidden_size": 16, "image_size": 4, "patch_size": 2, "intermediate_size": 32}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text, **heads, **SPECIAL, hidden_size=16),
        vision_config=SiglipVisionConfig(**image, num_hidden_layers=2, num_attention_heads=2),
        mm_tokens_per_image=1,
        image_token_id=3,
    )
    torch.manual_seed(0)
    network = Gemma3ForConditionalGeneration(config).double()
    return LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)


@pytest.mark.parametrize("modules", ["all-linear", "q_proj,v_proj"])
@pytest.mark.parametrize("has_own", [False, True], ids=["network", "network with an adapter"])
def test_layers_that_read_images_are_left_out(modules, has_own, tmp_path):
    """The prior's own adapter may have them."""
    prior = reader_of_images()
    if has_own:
        prior.network.add_adapter(
            peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        )
        prior = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=3)
    guide = moved(LoRA(prior, target_modules=modules))
    names = {name.split(".lora_")[0] for name in guide.trained()}
    assert all(".language_model." in name for name in names)
    layers = 7 if modules == "all-linear" else 2
    assert len(names) == 2 * layers
    assert not any(module._forward_pre_hooks for module in prior.network.modules())
    assert_loads_and_merges(guide, tmp_path, target_modules=modules)
    with pytest.raises(ValueError, match=r"'fc1', which fits no linear layer: .* down_proj"):
        LoRA(prior, target_modules="fc1")
