"""Gradient of attention in half precision: the gradient of float64, and no NaN without keys."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from guides import LoRA
from model.networks.layers import attention
from model.networks.layers.attention import FasterAttention
from model.networks.layers.layer_checkpoints import checkpointed_layers
from tests.model.tiny import PROMPTS, tiny

pytestmark = pytest.mark.on_cpu


def masks() -> dict[str, dict]:
    """Arguments of attention, by name."""
    padded = torch.ones(3, 1, 6, 8, dtype=torch.bool).tril(2)
    padded[0, :, :, :4] = False  # the first two queries see no key
    numbers = torch.zeros(6, 8)
    numbers[:, 0] = -torch.inf
    return {
        "no mask": {},
        "causal": {"is_causal": True},
        "left padding": {"attn_mask": padded},
        "added numbers": {"attn_mask": numbers},
        "other scale": {"scale": 0.7},
    }


def parts(dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value and the gradient of the output, of the same numbers in each type."""
    torch.manual_seed(0)
    sizes = [(3, 6, 2, 16), (3, 8, 2, 16), (3, 8, 2, 16), (3, 6, 2, 16)]
    return [torch.randn(*size).bfloat16().to(dtype).transpose(1, 2) for size in sizes]


def gradients(dtype: torch.dtype, options: dict) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output, and gradients of query, key and value."""
    *inputs, grad = (part.requires_grad_() for part in parts(dtype))
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        # torch's kernel for old processors misreads a mask of another type than the queries
        options = options | {"attn_mask": mask.to(dtype)}
    output = scaled_dot_product_attention(*inputs, **options)
    return output, torch.autograd.grad(output, inputs, grad)


@pytest.mark.parametrize("size", [1, 1 << 18])
@pytest.mark.parametrize("case", masks())
def test_gradient_is_that_of_float64(case: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", size)
    options = masks()[case]
    with FasterAttention():
        output, grads = gradients(torch.bfloat16, options)
    assert type(output.grad_fn).__name__ == "_AttentionBackward"
    _, exact = gradients(torch.float64, options)
    for got, expected in zip(grads, exact, strict=True):
        expected = expected.nan_to_num()
        assert (got - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_types_keep_torch_s_gradient(dtype: torch.dtype) -> None:
    with FasterAttention():
        output, _ = gradients(dtype, {})
    assert type(output.grad_fn).__name__ != "_AttentionBackward"


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_guide_s_gradient_is_torch_s_up_to_rounding(
    checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = tiny("llama", torch.bfloat16)
    guide, prompts = LoRA(prior, rank=2), prior.encode(PROMPTS)
    for parameter in guide.trained().values():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    response = prior(prompts).sample((8,))

    def gradient() -> Tensor:
        guide.zero_grad()
        with checkpointed_layers(checkpoints):
            guide.distribution(prompts).log_prob(response).sum().backward()
        return torch.cat([p.grad.flatten() for p in guide.trained().values()])

    faster = gradient()
    monkeypatch.setattr(attention, "MOST", 0)
    expected = gradient()
    assert not torch.equal(faster, expected)
    assert (faster - expected).norm() < 0.05 * expected.norm()
