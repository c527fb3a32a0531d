"""Attention with rotary positions: the results of `transformers`, by fewer kernels."""

from types import FunctionType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama as llama

from model.networks.layers import rotary_attention
from model.networks.layers.packed_layers import PackedLayers
from model.networks.layers.rotary_attention import RotaryAttention, rotary_layers
from tests.model.networks.layers.test_adapted_linear import Operations, adapted_twice

SIZES = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
FAMILIES: list[tuple[str, dict[str, Any], bool]] = [
    ("Llama", {}, True),
    ("Llama", {"num_key_value_heads": 1, "attention_bias": True}, True),
    ("Mistral", {"sliding_window": 3}, True),
    ("Qwen2", WINDOW, True),
    ("Qwen3", {}, True),
    ("Gemma", {}, True),
    ("Gemma3", {"sliding_window": 3}, True),
    ("Granite", {"attention_multiplier": 0.7}, True),
    ("Olmo", {"clip_qkv": 0.01}, False),  # clips queries
    ("Olmo2", {}, False),  # a norm of all heads together
    ("SmolLM3", {"no_rope_layer_interval": 2}, False),  # some layers have positions
    ("Cohere", {}, False),  # rotates neighbours
    ("Helium", {}, False),  # the same, in the code of Llama
    ("Glm", {}, False),  # the same of a part
    ("Nemotron", {}, False),  # a part rotates, in the code of Llama
    ("Phi3", {}, False),  # one projection
    ("GPTNeoX", {}, False),  # one projection, a part rotates
]


def network_of(family: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    kind = getattr(transformers, f"{family}ForCausalLM")
    network = kind(kind.config_class(**SIZES | settings)).double().eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.5 * (weight.dim() == 1), 0.3)
    return network


def results(network: PreTrainedModel) -> list[Tensor]:
    """Logits and gradients with and without padding, and logits of a token by the cache."""
    ids = torch.arange(2, 20).view(2, 9)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    tensors = []
    for own, longer in ((None, None), (mask, torch.cat([mask, mask[:, -1:]], 1))):
        out = network(ids, attention_mask=own)
        logits = out.logits[:, 3:]
        weights = list(network.parameters())
        tensors += [logits.detach(), *torch.autograd.grad(logits.square().sum(), weights)]
        options = {"past_key_values": out.past_key_values, "attention_mask": longer}
        with torch.no_grad():
            tensors.append(network(ids[:, :1], **options).logits)
    return tensors


@pytest.mark.parametrize(("family", "settings", "fits"), FAMILIES)
def test_results_are_those_of_transformers(
    family: str, settings: dict[str, Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(family, settings)
    expected = results(network)
    rotary_layers(network)
    layers = [layer for layer in network.modules() if isinstance(layer, RotaryAttention)]
    assert len(layers) == 2 * fits
    monkeypatch.setattr(rotary_attention, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(rotary_attention, "HALF", (torch.float64,))
    assert_close(results(network), expected, rtol=1e-5, atol=1e-6)  # norms are in float32


def test_a_token_of_packed_layers_has_three_operations_for_its_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rotary_attention, "is_asynchronous", lambda device: True)
    network = adapted_twice(torch.bfloat16).language_model.network
    ids = torch.tensor([[2], [3]])
    counts = []
    with torch.no_grad(), PackedLayers(network):
        for _ in range(2):
            with Operations({"mul", "addcmul_", "neg", "add", "cat"}) as operations:
                out = network(ids)
            counts.append(operations.number)
    # of two layers: three each, two residuals and the activation; and the tables of positions
    assert counts[1] == counts[0] - 2 * 3
    assert out.logits.isfinite().all()
    for layer in out.past_key_values.layers:  # no views, which keep the memory of all three
        for part in (layer.keys, layer.values):
            assert part.untyped_storage().nbytes() == part.nbytes


def test_the_first_keys_and_values_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("Llama", {})
    rotary_layers(network)
    ids = torch.arange(2, 20).view(2, 9)
    counts = []
    for is_gpu in (False, True):
        monkeypatch.setattr(rotary_attention, "is_asynchronous", lambda device, gpu=is_gpu: gpu)
        monkeypatch.setattr(rotary_attention, "HALF", (torch.float64,))
        with torch.no_grad(), Operations({"cat"}) as copies:
            network(ids)
        counts.append(copies.number)
    # of two layers: keys, values, and halves of queries and of keys; one of the table of positions
    assert counts == [2 * 4 + 1, 1]


@pytest.mark.on_cpu
def test_attention_in_float64_can_be_vectorised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a GPU, as `GaussNewton` needs it."""
    network = network_of("Llama", {})
    rotary_layers(network)
    monkeypatch.setattr(rotary_attention, "is_asynchronous", lambda device: True)
    ids = torch.arange(2, 20).view(2, 1, 9)

    def logits(row: Tensor) -> Tensor:
        mask = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        return network(row, attention_mask=mask, use_cache=False).logits

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        assert_close(torch.func.vmap(logits)(ids), torch.stack([logits(row) for row in ids]))


def test_other_passes_have_the_code_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with dropout, with weights of attention, and with arguments by position."""
    network = network_of("Llama", {"attention_dropout": 0.5})
    rotary_layers(network)
    monkeypatch.setattr(rotary_attention, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(rotary_attention, "HALF", (torch.float64,))
    ids = torch.arange(2, 20).view(2, 9)
    layer, x = network.model.layers[0].self_attn, torch.randn(1, 3, 32, dtype=torch.float64)
    angles = torch.rand(2, 1, 3, 8, dtype=torch.float64)
    assert_close(layer(x, angles, None)[0], layer(x, position_embeddings=angles)[0])
    assert not network.train()(ids).logits.equal(network(ids).logits)
    network.set_attn_implementation("eager")
    assert network.eval()(ids, output_attentions=True).attentions[0].shape == (2, 4, 9, 9)


def test_layers_with_weights_of_another_type_stay() -> None:
    class Shard(torch.nn.Parameter):
        pass

    network = network_of("Llama", {})
    projection = network.model.layers[1].self_attn.q_proj
    projection.weight = Shard(projection.weight.data)
    rotary_layers(network)
    kinds = [isinstance(layer.self_attn, RotaryAttention) for layer in network.model.layers]
    assert kinds == [True, False]


def test_attention_with_other_code_of_positions_or_another_part_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, positions = llama.LlamaAttention.forward, llama.apply_rotary_pos_emb

    def fits(own: Any, part: str = "") -> bool:
        """True for attention with a function of its own for positions, and one more part."""
        code = FunctionType(forward.__code__, forward.__globals__ | {positions.__name__: own})
        code.__kwdefaults__ = forward.__kwdefaults__
        layer = network_of("Llama", {}).model.layers[0].self_attn
        layer.__class__ = type("Attention", (llama.LlamaAttention,), {"forward": code})
        if part:
            layer.add_module(part, torch.nn.Identity())
        rotary_layers(layer)
        return isinstance(layer, RotaryAttention)

    def wrapped(function: Any) -> Any:
        return lambda *args: function(*args)

    assert fits(positions)
    assert not fits(positions, "gate")
    others = positions.__globals__ | {"rotate_half": lambda x: x.flip(-1)}
    assert not fits(FunctionType(positions.__code__, others, None, positions.__defaults__))
    monkeypatch.setattr(llama, positions.__name__, wrapped(positions))  # of the same code as others
    monkeypatch.setitem(wrapped.__globals__, "rotate_half", llama.rotate_half)
    assert not fits(wrapped(lambda q, k, cos, sin: (q, k)))


def test_queries_and_keys_with_a_gradient_are_rotated_each() -> None:
    query, key = torch.randn(2, 3, 48, requires_grad=True).split([32, 16], -1)
    assert rotary_attention._joined(query, key) is None
    query, key = query.detach(), key.detach()
    assert_close(rotary_attention._joined(query, key), torch.cat([query, key], -1))
