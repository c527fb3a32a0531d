"""Linear layers for few rows: torch's numbers in half precision, and modules as before."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from guides import LoRA
from model.networks.few_rows import FEW, few_rows
from tests.model.tiny import PROMPTS, tiny


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, dtype=torch.bfloat16).eval()


def outputs(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output without and inside `few_rows`."""
    with torch.no_grad():
        plain = network(x)
        with few_rows(network):
            return plain, network(x)


@pytest.mark.parametrize("shape", [(5, 1, 24), (3, 24), (FEW + 1, 1, 24)])
def test_output_is_that_of_the_layer(layer: nn.Linear, shape: tuple[int, ...]) -> None:
    plain, few = outputs(layer, torch.randn(shape, dtype=torch.bfloat16))
    assert few.shape == plain.shape
    assert_close(few, plain)


@pytest.mark.parametrize("num_adapters", [1, 2])
def test_adapters_are_those_of_peft_up_to_rounding(num_adapters: int) -> None:
    """A prior with an adapter of its own has two in its guide."""
    guide = LoRA(tiny("llama", torch.bfloat16), rank=2)
    for _ in range(num_adapters - 1):
        guide = LoRA(guide.language_model, rank=2)
    with torch.no_grad():
        for parameter in guide.language_model.parameters():
            if parameter.dtype == torch.float32:
                parameter.normal_(0.0, 0.3)
    for module in guide.language_model.network.modules():
        if hasattr(module, "lora_A"):
            x = torch.randn(3, 1, module.in_features, dtype=torch.bfloat16)
            plain, few = outputs(module, x)
            without = module.get_base_layer()(x)
            error, effect = (few - plain).float().norm(), (plain - without).float().norm()
            assert error < 0.02 * effect


def test_layers_are_as_before_afterwards_and_have_their_gradient_inside(layer: nn.Linear) -> None:
    x = torch.randn(2, 24, dtype=torch.bfloat16)
    with few_rows(layer):
        with few_rows(layer):
            assert "forward" in vars(layer)
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert "forward" not in vars(layer)


def test_wide_types_keep_torch_s_layers() -> None:
    network = tiny(dtype=torch.float32).network
    with few_rows(network):
        assert not any("forward" in vars(module) for module in network.modules())


def test_draws_in_half_precision_use_the_layers_of_few_rows() -> None:
    """A draw of three tokens enters and leaves the layers once, and stays a response."""
    prior = tiny("llama", torch.bfloat16)
    layer, inside = prior.network.model.layers[0].mlp.up_proj, []
    layer.register_forward_hook(lambda module, *_: inside.append("forward" in vars(module)))
    value = prior(prior.encode(PROMPTS)).sample((4,))
    assert inside == [False, *[True] * (len(inside) - 1)]
    assert prior.space.contains(value).all()
    assert "forward" not in vars(layer)
