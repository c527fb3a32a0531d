"""Adapters in half precision: outputs and gradients of `peft` up to rounding, with less memory."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from guides import LoRA
from model import LanguageModel, ResponseDistribution
from model.networks.layers import adapted_linear
from model.networks.layers.adapted_linear import AdaptedLinear
from model.networks.layers.layer_checkpoints import checkpointed_layers
from model.networks.layers.rounded_adapters import (
    RoundedAdapters,
    rounded_together,
    shared_factors,
)
from model.prior import cached_decoder
from tests.model.tiny import PROMPTS, tiny


class Operations(TorchDispatchMode):
    """Counts operations of torch by their names.

    Attributes:
        number: number of operations so far.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names, self.number = names, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += function.overloadpacket.__name__ in self.names
        return function(*args, **(kwargs or {}))


def adapted_twice(dtype: torch.dtype, network: str = "llama") -> LoRA:
    """A guide on a prior that has an adapter itself, all adapters with random numbers."""
    prior = LoRA(tiny(network, dtype), rank=2).language_model
    guide = LoRA(prior, rank=3, alpha=7)
    for module in guide.modules():
        if isinstance(module, AdaptedLinear):
            for layer in (*module.lora_A.values(), *module.lora_B.values()):
                torch.nn.init.normal_(layer.weight, 0.0, 0.2)
    return guide


def results(module: Any, forward: Any, x: Tensor) -> list[Tensor]:
    """Output of a layer by one of two methods, and the gradients of its input and adapters."""
    x = x.clone().requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    output = forward(module, x).mul_(2.0)  # in place, as in Gemma 3n
    grads = torch.autograd.grad(output.float().square().sum(), [x, *parameters])
    return [output.detach(), *grads]


@pytest.mark.parametrize("network", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [2, 200])
def test_outputs_and_gradients_are_those_of_peft(rows: int, network: str) -> None:
    guide = adapted_twice(torch.bfloat16, network)
    layers = [m for m in guide.language_model.modules() if isinstance(m, AdaptedLinear)]
    assert layers
    for module in layers:
        x = torch.randn(rows, 1, module.in_features, dtype=torch.bfloat16)
        assert module.is_plain(x)
        got = results(module, AdaptedLinear.forward, x)
        expected = results(module, Linear.forward, x)
        assert len(got) == 4  # the output, and gradients of the input, of A and of B
        for own, other in zip(got, expected, strict=True):
            assert own.dtype == other.dtype
            assert (own - other).float().norm() < 0.02 * other.float().norm()
        with torch.no_grad():
            torch.testing.assert_close(2.0 * module(x), got[0])


def test_a_prior_with_an_adapter_and_a_new_guide_on_it_are_equal() -> None:
    with_adapter = adapted_twice(torch.bfloat16).language_model
    fresh = LanguageModel(with_adapter.network, with_adapter.tokenizer, max_new_tokens=3)
    prompts = fresh.encode(PROMPTS)
    response = fresh(prompts).sample((20,))
    guide = LoRA(fresh, rank=2)
    log_guide: ResponseDistribution = guide.distribution(prompts)
    assert torch.equal(log_guide.log_prob(response), fresh(prompts).log_prob(response))


def test_the_gradient_keeps_no_input_in_float32() -> None:
    module = next(m for m in adapted_twice(torch.bfloat16).modules() if type(m) is AdaptedLinear)
    x = torch.randn(50, module.in_features, dtype=torch.bfloat16, requires_grad=True)
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        module(x)
    assert [t for t in saved if t.shape == x.shape]
    assert not [t for t in saved if t.shape == x.shape and t.dtype == torch.float32]


def test_float32_layers_are_peft_s_own() -> None:
    guide = adapted_twice(torch.float32)
    module = next(m for m in guide.modules() if type(m) is AdaptedLinear)
    x = torch.randn(5, module.in_features)
    assert torch.equal(module(x), Linear.forward(module, x))


@pytest.mark.on_cpu
def test_draws_round_the_adapters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode with rounded factors draws as one that rounds them for each token."""
    guide = adapted_twice(torch.bfloat16)
    prior = guide.language_model
    layers = [m for m in prior.modules() if isinstance(m, AdaptedLinear)]
    inside: list[bool] = []
    layers[0].register_forward_hook(lambda layer, *_: inside.append(layer.rounded is not None))
    prompts = prior.encode(PROMPTS)
    torch.manual_seed(0)
    response = prior(prompts).sample((4,))
    assert inside == [False, *[True] * (len(inside) - 1)]
    assert len(inside) > 1
    assert all(layer.rounded is None for layer in layers)
    monkeypatch.setattr(cached_decoder, "RoundedAdapters", lambda network: nullcontext())
    torch.manual_seed(0)
    assert torch.equal(prior(prompts).sample((4,)), response)


def test_float32_layers_are_not_rounded() -> None:
    network = adapted_twice(torch.float32).language_model.network
    with RoundedAdapters(network):
        assert not any(getattr(module, "rounded", None) for module in network.modules())


def test_each_entry_rounds_the_parameters_of_the_time_at_the_same_places() -> None:
    network = adapted_twice(torch.bfloat16).language_model.network
    layers = [m for m in network.modules() if isinstance(m, AdaptedLinear)]
    rounding = RoundedAdapters(network)
    places = []
    for _ in range(2):
        with rounding:
            places.append([f.data_ptr() for layer in layers for f in layer.rounded or ()])
            for layer in layers:
                for own, expected in zip(layer.rounded or (), layer._factors(), strict=True):
                    assert torch.equal(own, expected.to(own.dtype))
        for layer in layers:
            for adapter in layer.lora_B.values():
                torch.nn.init.normal_(adapter.weight)
    assert places[0] == places[1]
    assert len(places[0]) == 2 * len(layers)


def test_gradients_are_in_the_order_of_the_parameters() -> None:
    """Autograd copies a gradient in another order."""
    network = adapted_twice(torch.bfloat16).language_model.network
    parameters = [p for p in network.parameters() if p.requires_grad]
    loss = network(torch.tensor([[2, 3, 4]])).logits.float().sum()
    gradients = torch.autograd.grad(loss, parameters)
    assert all(grad.is_contiguous() for grad in gradients)
    assert parameters


@pytest.mark.on_cpu  # a GPU packs the layers too, and gradients of packed layers are rounded apart
@pytest.mark.parametrize("is_gpu", [False, True])
@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_adapters_rounded_together_have_the_same_gradient(
    network: str, is_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as few operations as adapters have in one layer; one factor A is not trained."""
    own = adapted_twice(torch.bfloat16, network).language_model.network
    layers = [module for module in own.modules() if isinstance(module, AdaptedLinear)]
    layers[0].parts()[-1][0].requires_grad_(False)
    parameters = [p for p in own.parameters() if p.requires_grad]
    results = []
    for context, order in ((nullcontext(), False), (rounded_together(own), is_gpu)):
        monkeypatch.setattr(adapted_linear, "is_asynchronous", lambda device, gpu=order: gpu)
        with Operations({"_to_copy", "_foreach_copy_", "mul", "_foreach_mul"}) as roundings:
            with context:
                logits = own(torch.tensor([[2, 3, 4]])).logits.float()
            gradients = torch.autograd.grad(logits.square().sum(), parameters)
        results.append((logits, gradients, roundings.number))
        assert all(shared_factors(layer) is None for layer in layers)
    (expected, slopes, many), (got, own_slopes, few) = results
    assert torch.equal(got, expected)
    assert_close(own_slopes, slopes, rtol=0.02 * is_gpu, atol=1e-3 * is_gpu)
    assert few < many - 4 * len(layers)
    with rounded_together(own):
        assert [x.requires_grad for x in shared_factors(layers[0]) or ()] == [False, True]
    with checkpointed_layers(), rounded_together(own):  # layers round their own, when run again
        assert shared_factors(layers[0]) is None


def test_a_pass_of_a_language_model_rounds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, shared = adapted_twice(torch.bfloat16), []
    original = adapted_linear.shared_factors
    monkeypatch.setattr(
        adapted_linear,
        "shared_factors",
        lambda layer: (shared.append(original(layer)), shared[-1])[1],
    )
    prompts = guide.language_model.encode(PROMPTS)
    response = guide.language_model(prompts).sample((2,))
    shared.clear()
    guide.distribution(prompts).log_prob(response)
    assert shared
    assert None not in shared
