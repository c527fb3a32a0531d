"""Rotary positions in fewer kernels: the function of `transformers`, its gradient, its families."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from model.networks import fused_rotary as module
from model.networks.fused_rotary import fused_rotary
from tests.model.tiny import llama, tiny

SIZES = {
    "vocab_size": 5,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": None,
}
IDS = torch.tensor([[2, 3, 4, 1], [4, 0, 3, 2]])


def arguments(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Queries, keys, and cosine and sine of angles, whose halves differ."""
    sizes = ((2, 4, 3, 6), (2, 2, 3, 6), (2, 3, 6))
    q, k, angle = (torch.randn(size, dtype=torch.float64) for size in sizes)
    return tuple(each.to(dtype) for each in (q, k, angle.cos(), angle.sin()))


def test_value_and_gradient_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HALF", {torch.float64})
    q, k, cos, sin = arguments()
    slopes = [torch.randn_like(each) for each in (q, k)]
    results = []
    for function in (
        apply_rotary_pos_emb,
        lambda *args: module._both_rotated(apply_rotary_pos_emb, *args),
    ):
        parts = [each.clone().requires_grad_() for each in (q, k)]
        values = function(*parts, cos, sin)
        results.append([*values, *torch.autograd.grad(values, parts, slopes)])
        with torch.no_grad():
            results[-1] += function(*parts, cos, sin)
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_no_further_from_float64() -> None:
    exact = arguments()
    half = tuple(each.bfloat16() for each in exact)
    expected = torch.cat(apply_rotary_pos_emb(*(each.double() for each in half)), 1)
    errors = [
        (torch.cat(got, 1).double() - expected).abs().mean()
        for got in (
            module._both_rotated(apply_rotary_pos_emb, *half),
            apply_rotary_pos_emb(*half),
        )
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("kind", "is_usual"),
    [
        ("llama", True),
        ("mistral", True),
        ("qwen2", True),
        ("qwen3", True),
        ("gemma", True),
        ("olmo2", True),
        ("cohere", False),  # pairs of neighbours turn
        ("gpt_neox", True),  # a part of each head turns
        ("gpt2", False),
    ],
)
def test_families_are_told_by_their_function(kind: str, is_usual: bool) -> None:
    names = AutoConfig.for_model(kind).attribute_map
    sizes = {names.get(name, name): size for name, size in SIZES.items()}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    for dtype, tolerance in ((torch.float32, 0.0), (torch.bfloat16, 0.03)):
        before = copy.deepcopy(network).to(dtype)
        after = copy.deepcopy(before)
        fused_rotary(after)
        pairs = zip(before.modules(), after.modules(), strict=True)
        assert any(type(a) is not type(b) for a, b in pairs) == is_usual
        with torch.no_grad():
            expected, got = before(IDS).logits, after(IDS).logits
        assert (got - expected).float().norm() <= tolerance * expected.float().norm()


def test_a_language_model_turns_by_fewer_kernels() -> None:
    class Operations(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.number += function.overloadpacket.__name__ in {"neg", "cat", "mul", "addcmul_"}
            return function(*args, **(kwargs or {}))

    numbers = []
    for network in (llama().eval(), tiny("llama").network):
        with torch.no_grad(), Operations() as operations:
            network.bfloat16()(IDS, use_cache=False)
        numbers.append(operations.number)
    assert numbers[0] - numbers[1] == 2 * 2 * (4 - 3)  # layers, queries and keys; an add is left


def test_another_function_of_that_name_stays() -> None:
    assert module._is_usual(apply_rotary_pos_emb)
    assert not module._is_usual(None)
    assert not module._is_usual(lambda q, k, cos, sin: (q, k))
    assert not module._is_usual(lambda q, k, cos, sin, unsqueeze_dim=1: (q, k))
    assert not module._is_usual(
        lambda q, k, cos, sin, position_ids=None: apply_rotary_pos_emb(q, k, cos, sin)
    )
    layer = nn.Sequential(nn.Linear(2, 2))
    fused_rotary(layer)
    assert type(layer[0]) is nn.Linear


def test_the_layer_stays_of_its_kind() -> None:
    layers = [m for m in tiny("llama").network.modules() if isinstance(m, LlamaAttention)]
    assert len(layers) == 2
    assert all(type(layer).__name__ == "LlamaAttention" for layer in layers)
