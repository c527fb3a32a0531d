"""The head of a network, computed from hidden states: capped, scaled and adapted logits."""

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from guides import LoRA
from model import LanguageModel, Prompts
from model.networks.layers import head
from model.networks.layers.head import logits_of, splits_head
from model.prior import batch, logits
from tests.model.networks.layers.test_adapted_linear import Operations
from tests.model.tiny import WORDS, tiny_tokenizer

SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
# of one length: in float64, the eager attention of Gemma 2 gives NaN at padding
PROMPTS = ["a b c a", "c b a a"]
OPT_SIZES = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
NETWORKS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=2, n_positions=32, **SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma2, capped": lambda: Gemma2ForCausalLM(
        Gemma2Config(final_logit_softcapping=0.7, head_dim=8, num_key_value_heads=1, **SIZES)
    ),
    "cohere, scaled": lambda: CohereForCausalLM(CohereConfig(logit_scale=0.2, **SIZES)),
    "granite, scaled": lambda: GraniteForCausalLM(GraniteConfig(logits_scaling=5.0, **SIZES)),
    "opt": lambda: OPTForCausalLM(OPTConfig(ffn_dim=32, word_embed_proj_dim=8, **OPT_SIZES)),
}


def network(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval()


@pytest.fixture(params=NETWORKS)
def prior(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(network(request.param), tiny_tokenizer(), max_new_tokens=6)


def scores(guide: LoRA, prompts: Prompts, response: Tensor) -> tuple[Tensor, Tensor]:
    """log q of responses, and the gradient of their sum, in one row."""
    log_prob = guide.distribution(prompts).log_prob(response)
    gradient = torch.autograd.grad(log_prob.sum(), list(guide.trained().values()))
    return log_prob.detach(), torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("rows", [1, 3])
def test_logits_chunk_by_chunk_are_those_of_the_network(prior, rows, monkeypatch):
    """With adapters of `peft` in the body, whose gradient passes through the frozen head."""
    guide, prompts = LoRA(prior, rank=2), prior.encode(PROMPTS)
    guide.jitter(0.3, torch.Generator().manual_seed(0))
    response = prior(prompts).sample((4,))
    log_prob, gradient = scores(guide, prompts, response)
    for module in (logits, batch):
        monkeypatch.setattr(module, "CHUNK", rows * prior.space.vocab_size)
    monkeypatch.setattr(LanguageModel, "extend", None)  # no pass has the logits of all tokens
    by_chunks = scores(guide, prompts, response)
    assert gradient.norm() > 1e-2
    assert_close(by_chunks[0], log_prob, rtol=0, atol=1e-12)
    assert_close(by_chunks[1], gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_unchanged_by_its_head(name):
    own = network(name)
    modules = dict(own.named_modules())
    hidden = torch.zeros(3, own.get_output_embeddings().weight.shape[1], device=own.device)
    with torch.no_grad():
        logits_of(own, hidden.double())
    assert dict(own.named_modules()) == modules


def test_a_head_that_is_adapted_is_the_adapted_head():
    own = network("llama")
    own.add_adapter(LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False), "new")
    ids = torch.tensor([[2, 3, 4]])
    with torch.no_grad():
        output = own(ids, output_hidden_states=True)
        assert_close(logits_of(own, output.hidden_states[-1][0]), output.logits[0])
    assert splits_head(own)


def test_a_network_with_layers_between_body_and_output_computes_whole_logits():
    torch.manual_seed(0)
    own = RobertaForCausalLM(RobertaConfig(is_decoder=True, **SIZES | {"pad_token_id": 1}))
    assert not splits_head(own.eval())


def test_roundings_of_half_precision_are_no_difference_of_the_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product of another shape has another kernel on a GPU, which rounds otherwise."""
    half = network("gpt2").to(torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    monkeypatch.setattr(head, "logits_of", lambda *given: logits_of(*given) * (1 + eps))
    assert splits_head(half)
    monkeypatch.setattr(head, "logits_of", lambda *given: logits_of(*given) * 1.5)
    assert not splits_head(half)


def test_no_copy_of_logits_is_made_for_their_gradient() -> None:
    hidden = torch.randn(4, SIZES["hidden_size"]).to(torch.bfloat16).requires_grad_()
    own, ids = network("llama").bfloat16().to(hidden.device), torch.tensor([2, 0, 3, 1])
    value = logits.token_log_prob(logits_of(own, hidden), ids, 0.5)
    with Operations({"select_backward", "mul_", "copy_"}) as copies:
        value.sum().backward()
    assert copies.number == 0


@pytest.mark.on_cpu
@pytest.mark.parametrize("name", NETWORKS)
def test_more_logits_than_the_vocabulary_change_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and gradients of `_AlignedOutput`, which a GPU alone needs; one with a bias."""
    other = network(name)
    output = other.get_output_embeddings()
    if name == "llama":
        output.bias = torch.nn.Parameter(torch.randn(len(WORDS), dtype=torch.float64))
    assert len(WORDS) % head.ALIGNMENT
    assert not head.is_misaligned(output)  # on a CPU
    parameters = [p for p in output.parameters() if p.requires_grad]
    results = []
    for misaligned in (False, True):
        monkeypatch.setattr(head, "is_misaligned", lambda _, misaligned=misaligned: misaligned)
        hidden = torch.linspace(-1, 1, 5 * output.in_features, dtype=torch.float64).view(5, -1)
        hidden.requires_grad_()
        got = logits_of(other, hidden)
        grads = torch.autograd.grad(got.log_softmax(-1)[:, 1].sum(), [hidden, *parameters])
        results.append([got, *grads])
    assert results[0][0].shape == (5, len(WORDS))
    for expected, got in zip(*results, strict=True):
        assert_close(got, expected)
