"""The soft prompt is the prior after virtual tokens, trains these alone, and loads in peft."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    CTRLConfig,
    CTRLLMHeadModel,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
)

from guides import GUIDES, SoftPrompt, prior_match
from guides.guide import OtherGuideError
from guides.prior_match import NUM_RESPONSES, match_prior
from guides.saved import load_guide, save_guide
from inference import fit
from model import (
    AlignmentModel,
    Decoder,
    LanguageModel,
    Prompts,
    ResponseDistribution,
    ResponseSpace,
    TokenReward,
)
from tests.model.tiny import NETWORKS, PROMPTS, WORDS, tiny, tiny_tokenizer

KINDS = ["prompt", "prefix"]
NUM_VIRTUAL_TOKENS = 3
WEIGHTS = "adapter_model.safetensors"
TOLERANCE = {"gpt2": 1e-10, "llama": 1e-5}  # Llama's norm computes in float32 whatever the dtype


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def guide(network: str, kind: str) -> SoftPrompt:
    """Soft prompt away from the start: no two virtual tokens are alike."""
    return moved(tiny(network, temperature=0.7), kind)


def moved(prior: LanguageModel, kind: str, **options: object) -> SoftPrompt:
    guide = SoftPrompt(prior, kind=kind, **{"num_virtual_tokens": NUM_VIRTUAL_TOKENS} | options)
    torch.manual_seed(5)
    with torch.no_grad():
        guide.virtual_tokens += 0.3 * torch.randn_like(guide.virtual_tokens)
    return guide


def plain_logits(guide: SoftPrompt, ids: Tensor) -> Tensor:
    """Logits after each of the tokens `[L]`, by one pass over one sequence without padding."""
    network, virtual = guide.prior.network, guide.virtual_tokens
    if guide.kind == "prompt":
        embeddings = torch.cat([virtual, network.get_input_embeddings()(ids)])
        return network(inputs_embeds=embeddings[None], use_cache=False).logits[0, len(virtual) :]
    depth, heads = {"GPT2LMHeadModel": (2, 2), "LlamaForCausalLM": (2, 1)}[type(network).__name__]
    # keys of layer 1, values of layer 1, keys of layer 2, ...
    layers = virtual.view(len(virtual), 2 * depth, heads, 8)
    cache = DynamicCache()
    for layer in range(depth):
        keys, values = layers[:, 2 * layer], layers[:, 2 * layer + 1]  # [M, heads, D]
        cache.update(keys.transpose(0, 1)[None], values.transpose(0, 1)[None], layer)
    return network(ids[None], past_key_values=cache).logits[0]


def plain_log_prob(guide: SoftPrompt, prompt: Tensor, response: Tensor) -> Tensor:
    logits = plain_logits(guide, torch.cat([prompt, response]))[len(prompt) - 1 : -1]
    per_token = (logits / guide.prior.temperature).log_softmax(-1)[
        torch.arange(len(response)), response
    ]
    ends = [t for t, token in enumerate(response.tolist()) if token in guide.prior.end_ids]
    return per_token[: ends[0] + 1 if ends else None].sum()


def plain_log_probs(guide: SoftPrompt, prompts: Prompts, value: Tensor) -> Tensor:
    """Log-probabilities `[K, N]` of responses `[K, N, T]`, one sequence at a time."""
    alone = [ids[mask] for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    return torch.stack(
        [
            torch.stack([plain_log_prob(guide, *pair) for pair in zip(alone, row, strict=True)])
            for row in value
        ]
    )


# The distribution


def test_log_prob_is_that_of_a_plain_pass_over_virtual_tokens_prompt_and_response(
    guide: SoftPrompt,
) -> None:
    prompts = guide.prior.encode(PROMPTS)
    distribution = guide.distribution(prompts)
    value = distribution.enumerate_support()[::9]
    assert_close(
        distribution.log_prob(value), plain_log_probs(guide, prompts, value), rtol=0, atol=1e-10
    )


def test_a_network_that_changes_its_input_in_place_leaves_the_virtual_tokens() -> None:
    """CTRL multiplies input embeddings by a constant, in place."""
    sizes = {"vocab_size": len(WORDS), "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    network = CTRLLMHeadModel(CTRLConfig(**sizes, dff=16, eos_token_id=0))
    prior = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    guide = moved(prior, "prompt")
    before, prompts = guide.virtual_tokens.detach().clone(), prior.encode(PROMPTS)
    response = guide.distribution(prompts).sample((2,))
    guide.distribution(prompts).log_prob(response).sum().backward()
    assert torch.equal(guide.virtual_tokens, before)


@pytest.mark.parametrize("text", ["c a b", "c a b a a", "c a"], ids=["as long", "cut", "repeated"])
def test_with_a_text_the_start_is_the_prior_after_the_text(
    network: str, kind: str, text: str
) -> None:
    prior = tiny(network)
    guide = SoftPrompt(prior, kind=kind, num_virtual_tokens=3, text=text)
    read = {"c a b": "c a b", "c a b a a": "c a b", "c a": "c a c"}[text]
    after = prior(prior.encode([f"{read} {prompt}" for prompt in ("a b c a", "b")]))
    value = after.enumerate_support()
    log_guide = guide.distribution(prior.encode(["a b c a", "b"])).log_prob(value)
    assert_close(log_guide, after.log_prob(value), rtol=0, atol=TOLERANCE[network])


@pytest.mark.parametrize(
    ("special", "first"), [({}, 0), ({"bos_token": "b"}, 3), ({"bos_token": None}, 0)]
)
def test_without_a_text_the_start_is_the_beginning_token_then_a_tenth_of_it(
    kind: str, special: dict, first: int
) -> None:
    prior = LanguageModel(tiny().network, tiny_tokenizer(**special), max_new_tokens=3)
    guide = SoftPrompt(prior, kind=kind, num_virtual_tokens=3)
    beginning = prior.network.get_input_embeddings().weight[first]
    expected = torch.stack([beginning, 0.1 * beginning, 0.1 * beginning])
    if kind == "prefix":
        layers = prior.network(inputs_embeds=expected[None]).past_key_values.layers
        tensors = [
            tensor[0].transpose(0, 1).flatten(1)
            for layer in layers
            for tensor in (layer.keys, layer.values)
        ]
        expected = torch.cat(tensors, 1)
    assert_close(guide.virtual_tokens.detach(), expected, rtol=0, atol=1e-12)


def test_the_virtual_tokens_are_read_once_for_all_prompts_and_particles(guide: SoftPrompt) -> None:
    widths = []
    hook = guide.prior.network.base_model.register_forward_hook(
        lambda _module, _inputs, out: widths.append(tuple(out.last_hidden_state.shape[:2]))
    )
    prompts = guide.prior.encode(PROMPTS)
    guide.distribution(prompts).log_prob(torch.full((4, 3, 3), WORDS.index("a")))
    hook.remove()
    assert widths == [(1, NUM_VIRTUAL_TOKENS)] * (guide.kind == "prompt") + [(3, 4), (12, 2)]


def test_layers_with_sliding_windows_that_hold_everything(kind: str) -> None:
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    config = Gemma2Config(
        **sizes, num_attention_heads=2, num_key_value_heads=1, eos_token_id=0, sliding_window=10
    )
    torch.manual_seed(0)
    prior = LanguageModel(Gemma2ForCausalLM(config).double(), tiny_tokenizer(), max_new_tokens=3)
    guide = moved(prior, kind)
    prompts = prior.encode(PROMPTS)
    value = guide.distribution(prompts).enumerate_support()[::5]
    alone = [guide.distribution(prompts[[n]]).log_prob(value[:, [n]]) for n in range(len(prompts))]
    assert_close(
        guide.distribution(prompts).log_prob(value), torch.cat(alone, 1), rtol=0, atol=1e-5
    )


# The match to the prior before training


def kl_to_prior(guide: SoftPrompt, prompts: Prompts) -> Tensor:
    """Exact KL(q || p0), a sum over all responses, `[N]`."""
    value = guide.distribution(prompts).enumerate_support()
    with torch.no_grad():
        log_guide = guide.distribution(prompts).log_prob(value)
        return (log_guide.exp() * (log_guide - guide.prior(prompts).log_prob(value))).sum(0)


def test_the_start_of_the_registered_guide_is_near_the_prior(network: str, kind: str) -> None:
    prior = tiny(network, temperature=0.7)
    prompts = prior.encode(PROMPTS)
    unmatched, matched = (
        GUIDES["soft-prompt"](prior, prompts, kind=kind, match_steps=steps) for steps in (0, 30)
    )
    before, after = (kl_to_prior(guide, prompts).mean() for guide in (unmatched, matched))
    assert after < 0.25 * before


def test_the_match_depends_on_the_arguments_alone_and_keeps_the_random_state(kind: str) -> None:
    prior, tokens = tiny(), []
    prompts = prior.encode(PROMPTS)
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        guide = GUIDES["soft-prompt"](prior, prompts, kind=kind)
        assert torch.equal(torch.get_rng_state(), before)
        assert guide.virtual_tokens.grad is None
        tokens.append(guide.virtual_tokens)
    assert torch.equal(*tokens)


def test_a_match_in_micro_batches_is_the_same_and_differentiates_no_more_at_a_time(
    network: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, sizes = tiny(network).double(), []
    prompts = prior.encode(PROMPTS)

    def kl_per_token(prior: ResponseDistribution, guide: Any, response: Tensor) -> tuple[Tensor]:
        if torch.is_grad_enabled():
            sizes.append(len(response))
        return original(prior, guide, response)

    original = prior_match.kl_per_token
    monkeypatch.setattr(prior_match, "kl_per_token", kl_per_token)
    how = {"kind": kind, "match_steps": 3}
    whole = GUIDES["soft-prompt"](prior, prompts, **how)
    assert max(sizes) >= NUM_RESPONSES
    sizes.clear()
    parts = GUIDES["soft-prompt"](prior, prompts, **how, match_micro_batch=5)
    assert 1 < max(sizes) <= 5
    assert_close(whole.virtual_tokens, parts.virtual_tokens, rtol=0, atol=1e-6)


class Memoryless(Decoder):
    """The same logits of the next token after each prefix."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)

    def start(self, prompts: Prompts) -> tuple[Tensor, Any]:
        return self.logits.expand(len(prompts), -1), self

    def extend(self, state: Any, ids: Tensor) -> tuple[Tensor, Any]:
        return self.logits.expand(*ids.shape, -1), state


@pytest.mark.parametrize("excluded", [-2e4, -torch.inf])
def test_the_kl_of_a_token_that_the_guide_excludes_is_what_it_is(excluded: float) -> None:
    """p0 is 1/2, 1/2, 0, and q 1/2, e^excluded, 1/2: log q is no smaller than it is."""
    prompts, space = Prompts.from_ids([[1]], ["a"]), ResponseSpace(1, 3, torch.tensor([0]), 0)
    decoders = Memoryless(0, 0, -torch.inf), Memoryless(0, excluded, 0)
    prior, guide = (ResponseDistribution(decoder, prompts, space) for decoder in decoders)
    terms = partial(prior_match.kl_per_token, prior)
    (kl,) = guide.in_chunks(terms, torch.zeros(1, 1, 1, dtype=torch.long))
    assert_close(kl.item(), -excluded / 2)
    kl.sum().backward()
    assert_close(decoders[1].logits.grad.tolist(), [0.0, -0.5, 0.5])


def test_a_resumed_fit_of_a_matched_guide_is_the_same_fit(kind: str, tmp_path: Path) -> None:
    """The virtual tokens are those of the checkpoint, not of the match that a resume repeats."""
    prior = tiny()
    prompts = prior.encode(PROMPTS)
    reward = TokenReward(lambda response, is_token: (response * is_token).double().sum(-1), prior)
    model = AlignmentModel(prior, reward, beta=5.0)

    def fitted(folder: str, num_steps: int, match_steps: int = 3) -> Tensor:
        guide = GUIDES["soft-prompt"](prior, prompts, kind=kind, match_steps=match_steps)
        how = {"checkpoint_folder": tmp_path / folder, "resume": True, "progress": False}
        fit(model, guide, prompts, num_steps=num_steps, **how)
        return guide.virtual_tokens.detach()

    whole = fitted("whole", 4)
    early = fitted("parts", 2)
    assert not torch.equal(early, whole)
    assert torch.equal(fitted("parts", 4, match_steps=0), whole)


def test_a_text_is_the_start_as_it_is(kind: str) -> None:
    prior = tiny()
    options = {"kind": kind, "text": "c a b", "num_virtual_tokens": 3}
    guide = GUIDES["soft-prompt"](prior, prior.encode(PROMPTS), **options)
    assert torch.equal(guide.virtual_tokens, SoftPrompt(prior, **options).virtual_tokens)


def test_the_match_draws_after_the_first_prompts_of_many() -> None:
    prior = tiny()
    texts = [*(["a", "b"] * (NUM_RESPONSES // 2)), "c", "a b c"]
    few, many = (prior.encode(chosen) for chosen in (texts[:NUM_RESPONSES], texts))
    guides = [GUIDES["soft-prompt"](prior, prompts, match_steps=2) for prompts in (few, many)]
    assert_close(guides[0].virtual_tokens, guides[1].virtual_tokens, rtol=0, atol=1e-8)


@pytest.mark.parametrize("end", [float("nan"), 1e9], ids=["NaN", "a rise"])
def test_a_match_that_fails_leaves_the_start(end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def minimise(loss: object, parameters: list[Tensor], **_: object) -> float:
        parameters[0].data.fill_(end)
        return end

    monkeypatch.setattr(prior_match, "minimise", minimise)
    prior = tiny()
    guide = GUIDES["soft-prompt"](prior, prior.encode(PROMPTS))
    assert torch.equal(guide.virtual_tokens, SoftPrompt(prior).virtual_tokens)


def test_a_saved_guide_is_loaded_without_a_match(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, options = tiny(), {"kind": kind, "match_steps": 2}
    prompts = prior.encode(PROMPTS)
    guide = GUIDES["soft-prompt"](prior, prompts, **options)
    save_guide(tmp_path, guide, "soft-prompt", options, prompts, temperature=1.0)
    monkeypatch.delattr(prior_match, "minimise")
    again = load_guide(tmp_path, prior)
    assert torch.equal(again.virtual_tokens, guide.virtual_tokens)


def test_a_draw_comes_with_its_log_prob(guide: SoftPrompt) -> None:
    distribution = guide.distribution(guide.prior.encode(PROMPTS))
    value, log_prob = distribution.sample_and_log_prob((8,))
    assert_close(log_prob, distribution.log_prob(value).detach(), rtol=0, atol=1e-10)


# Gradients


def test_gradients_are_those_of_a_plain_pass(guide: SoftPrompt, network: str) -> None:
    prompts = guide.prior.encode(PROMPTS)
    value = guide.distribution(prompts).sample((2,))
    expected = torch.autograd.grad(
        plain_log_probs(guide, prompts, value).sum(), guide.virtual_tokens
    )
    log_guide = guide.distribution(prompts).log_prob(value).sum()
    assert_close(
        torch.autograd.grad(log_guide, guide.virtual_tokens),
        expected,
        rtol=0,
        atol=TOLERANCE[network],
    )


def test_one_distribution_can_be_differentiated_again_and_again(guide: SoftPrompt) -> None:
    distribution = guide.distribution(guide.prior.encode(PROMPTS))
    value = distribution.sample((2,))
    distribution.log_prob(value).sum().backward()
    once = guide.virtual_tokens.grad.clone()
    distribution.log_prob(value).sum().backward()
    assert_close(guide.virtual_tokens.grad, 2 * once, rtol=0, atol=1e-12)


# Types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_trained_tensors_are_float32_or_wider_and_the_network_reads_its_own_type(
    kind: str, dtype: torch.dtype
) -> None:
    guide = SoftPrompt(tiny(dtype=dtype), kind=kind)
    distribution = guide.distribution(guide.prior.encode(PROMPTS))
    distribution.log_prob(distribution.sample((2,))).sum().backward()
    assert (
        guide.virtual_tokens.dtype
        == guide.virtual_tokens.grad.dtype
        == torch.promote_types(dtype, torch.float32)
    )
    assert {
        layer.keys.dtype for layer in guide.start(guide.prior.encode(["a"]))[1].cache.layers
    } == {dtype}


# Saved and loaded


@pytest.mark.parametrize("is_matched", [False, True], ids=["moved", "matched"])
def test_peft_alone_loads_the_saved_folder(
    guide: SoftPrompt, network: str, is_matched: bool, tmp_path: Path
) -> None:
    from peft import PeftModel

    if is_matched:
        match_prior(guide, guide.prior, guide.prior.encode(PROMPTS), max_steps=3)
    guide.save_pretrained(tmp_path)
    ids = torch.tensor([2, 3, 4, 2, 3])
    with torch.no_grad():
        expected = plain_logits(guide, ids)
        (ours, _) = guide.start(Prompts.from_ids([ids.tolist()], ["a b c a b"]))
        loaded = PeftModel.from_pretrained(tiny(network).network, tmp_path).eval()
        # all virtual tokens without padding are before the prompt: peft takes a mask of ones
        logits = loaded(ids[None], attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[
            0, -len(ids) :
        ]
    assert_close(logits, expected, rtol=0, atol=2e-6)  # peft holds them in float32
    assert_close(logits[-1], ours[0], rtol=0, atol=2e-6)
    assert not torch.allclose(logits, guide.prior.network(ids[None]).logits[0], atol=0.1)


@pytest.mark.parametrize(
    ("saved", "fault"),
    [
        ({"num_virtual_tokens": 2}, r"prompt_embeddings with shape \(2, "),
        ({"kind": "other"}, "peft calls it PR.*_TUNING, not PR"),
    ],
    ids=["number", "kind"],
)
def test_another_soft_prompt_is_refused(
    guide: SoftPrompt, saved: dict, fault: str, tmp_path: Path
) -> None:
    if "kind" in saved:
        saved = {"kind": KINDS[1 - KINDS.index(guide.kind)]}
    SoftPrompt(
        guide.prior, **{"kind": guide.kind, "num_virtual_tokens": NUM_VIRTUAL_TOKENS} | saved
    ).save_pretrained(tmp_path)
    before = guide.virtual_tokens.clone()
    with pytest.raises(OtherGuideError, match=fault):
        guide.load_pretrained(tmp_path)
    assert torch.equal(guide.virtual_tokens, before)


def test_tensors_of_other_names_are_refused(guide: SoftPrompt, tmp_path: Path) -> None:
    guide.save_pretrained(tmp_path)
    save_file({"other": guide.virtual_tokens.detach()}, tmp_path / WEIGHTS)
    (tmp_path / "digests.json").unlink()
    with pytest.raises(OtherGuideError, match="2 parameters differ"):
        guide.load_pretrained(tmp_path)


# Refused


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"text": ""}, "text is '', which has no tokens"),
        (
            {"num_virtual_tokens": 13},
            "13 virtual tokens, 1 of the prompt and 3 of the response are over the 16",
        ),
    ],
)
def test_options_that_make_no_guide_are_refused(options: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        SoftPrompt(tiny(), **options)


def test_a_prompt_that_leaves_no_room_for_the_virtual_tokens_is_refused(guide: SoftPrompt) -> None:
    longest = guide.prior.encode(["a", "a " * 10])
    guide.distribution(longest).sample()
    match = "3 virtual tokens, 11 of the prompt and 3 of the response are over the 16"
    with pytest.raises(ValueError, match=match):
        guide.distribution(guide.prior.encode(["a", "a " * 11]))


@pytest.mark.parametrize("name", ["sliding_window", "attention_chunk_size"])
def test_prompt_longer_than_a_window_of_attention_is_refused(guide: SoftPrompt, name: str) -> None:
    setattr(guide.prior.network.config, name, 9)
    guide.distribution(guide.prior.encode(["a b c"]))
    with pytest.raises(ValueError, match="4 of the prompt and 3 of the response are over the 9"):
        guide.distribution(guide.prior.encode(["a b c a"]))


def test_a_prefix_of_layers_of_different_shapes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = tiny()
    cache = prior.read(torch.zeros(8, 16, dtype=torch.float64))
    cache.layers[1].values = cache.layers[1].values[..., :4]
    monkeypatch.setattr(prior, "read", lambda _: cache)
    match = r"shapes \[\(1, 2, 8, 4\), \(1, 2, 8, 8\)\], expected one shape .* kind='prompt'"
    with pytest.raises(ValueError, match=match):
        SoftPrompt(prior, kind="prefix")


@pytest.mark.parametrize("text", [None, "a b"])
def test_network_that_reads_embeddings_of_tokens_alone_is_refused(kind: str, text: str) -> None:
    """Also if the virtual tokens start as the embeddings of a text."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32, "head_dim": 8}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    inputs = {"vocab_size_per_layer_input": len(WORDS), "hidden_size_per_layer_input": 4}
    config = Gemma4TextConfig(**sizes, **inputs, eos_token_id=0, pad_token_id=1)
    prior = LanguageModel(Gemma4ForCausalLM(config), tiny_tokenizer(), max_new_tokens=3)
    with pytest.raises(ValueError, match="Gemma4ForCausalLM cannot read virtual tokens"):
        SoftPrompt(prior, kind=kind, text=text)
