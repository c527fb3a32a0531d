"""Layers packed for a gradient: the numbers of the layers up to rounding, by fewer products."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

from model.networks.layers import adapted_linear, packed_gradients, rounded_adapters
from model.networks.layers.rounded_adapters import rounded_together, shared_factors, shared_group
from tests.model.networks.layers.test_adapted_linear import Operations, adapted_twice
from tests.model.tiny import NETWORKS, SPECIAL

PRODUCTS = {"mm", "addmm", "addmm_"}


def network_of(name: str, has_bias: bool) -> Any:
    network = adapted_twice(torch.bfloat16, name).language_model.network
    for layer in _adapted(network)[::3]:  # of queries alone in the first layer
        if has_bias and layer.base_layer.bias is None:
            bias = torch.randn(layer.out_features, dtype=torch.bfloat16, device=network.device)
            layer.base_layer.bias = nn.Parameter(bias, requires_grad=False)
        layer.register_forward_hook(lambda layer, x, y: y.mul_(1.5))  # in place, as in Gemma 3n
    return network


def _adapted(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if hasattr(layer, "rounded_factors")]


def results(network: Any) -> tuple[Tensor, Tensor, int]:
    """Logits, the gradient of the adapters, and the number of products."""
    ids = torch.tensor([[2, 3, 4, 1], [4, 0, 3, 2]])
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    with Operations(PRODUCTS) as products:
        with rounded_together(network):
            logits = network(ids).logits
        slopes = torch.autograd.grad(logits.float().square().sum(), trained)
    assert all(slope.is_contiguous() for slope in slopes)
    return logits.detach(), torch.cat([slope.flatten() for slope in slopes]), products.number


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("name", "saved"), [("llama", 33), ("gpt2", 0)])
def test_packed_layers_have_the_numbers_and_the_gradient_of_the_layers(
    name: str, saved: int, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the adapters have changed. A pass finds out which layers read the same x."""
    network = network_of(name, has_bias)
    monkeypatch.setattr(adapted_linear, "is_asynchronous", lambda device: True)
    for _ in range(2):
        monkeypatch.setattr(rounded_adapters, "packs", lambda *_: False)
        expected = results(network)
        monkeypatch.setattr(rounded_adapters, "packs", lambda *_: True)
        got = results(network)
        exact = results(copy.deepcopy(network).float())
        for own, other, limit in zip(got[:2], expected, exact, strict=False):
            error = (other - limit).norm()
            assert (own - limit).norm() < 1.5 * error < 0.1 * limit.norm()
            assert (own - other).norm() < error
        # of two layers: 12 for queries, keys and values, and 7 for gate and up, fewer; of the
        # first layer, whose x has no gradient, 5 fewer for the first three
        assert got[2] == expected[2] - saved
        with torch.no_grad():
            for layer in _adapted(network):
                for a, b, _ in layer.parts():
                    a.add_(0.1 * torch.randn_like(a))
                    b.mul_(0.9)


def test_scores_without_gradient_are_packed_and_the_passes_of_one_token_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, ids = network_of("llama", True), torch.tensor([[2, 3, 4]])
    layers = _adapted(network)
    monkeypatch.setattr(rounded_adapters, "packs", lambda *_: True)
    logits, num_packed = [], []
    for num_tokens in (3, 3, 1):
        with torch.no_grad(), rounded_together(network, num_tokens):
            num_packed.append(sum(shared_group(layer) is not None for layer in layers))
            logits.append(network(ids).logits)
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    key = layers[1](2.0 * x)
    with rounded_together(network):
        logits.append(network(ids).logits.detach())
        layers[0](x)
        assert_close(layers[1](2.0 * x), key)  # and not the key of x
        with torch.no_grad():
            layers[0](x)
        assert layers[1](x).requires_grad
        with torch.no_grad():
            layers[0](x)
            assert_close(layers[1](x.mul_(2.0)), key)
    assert num_packed == [10, 10, 0]  # of two layers: queries, keys, values; gate and up
    for each in logits:
        assert (each - logits[2]).norm() < 0.02 * logits[2].norm()
    assert torch.equal(logits[3], logits[1])
    assert torch.equal(logits[0], logits[1])
    assert all(shared_group(layer) is None for layer in layers)


@pytest.mark.parametrize("name", ["llama", "gpt2", "deepseek"])
def test_the_first_pass_of_a_process_has_the_numbers_of_later_passes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that goes on in a new process is the same to the last bit. Packed from the start."""
    monkeypatch.setitem(NETWORKS, "deepseek", deepseek)
    network = network_of(name, False)
    monkeypatch.setattr(rounded_adapters, "packs", lambda *_: True)
    first, *_, last = [results(network) for _ in range(3)]
    assert torch.equal(first[0], last[0])
    assert torch.equal(first[1], last[1])
    with rounded_together(network):
        groups = dict.fromkeys(filter(None, map(shared_group, _adapted(network))))
    expected = {"llama": [3, 2, 3, 2], "gpt2": [], "deepseek": [2, 2]}[name]
    assert [len(group.layers) for group in groups] == expected


def deepseek() -> DeepseekV2ForCausalLM:
    """Two projections of attention read one tensor, and a third reads another in between."""
    sizes = {"vocab_size": 5, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 8}
    ranks = {"kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = DeepseekV2Config(**sizes, **heads, **ranks, **SPECIAL, first_k_dense_replace=2)
    return DeepseekV2ForCausalLM(config)


def test_a_pass_that_cannot_be_packed_leaves_no_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later passes would read them in place of adapters that have changed."""
    network = network_of("llama", False)
    monkeypatch.setattr(rounded_adapters, "packs", lambda *_: True)
    results(network)
    monkeypatch.setattr(packed_gradients, "copy_all", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), rounded_together(network):
        pass
    assert all(shared_factors(layer) is None for layer in _adapted(network))


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError
