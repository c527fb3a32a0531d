"""Recomputation of pointwise results: the same gradients to the last bit, with less kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from model.networks.layers import pointwise_recomputation as recomputation
from model.prior import cached_decoder
from tests.model.networks.layers.test_adapted_linear import adapted_twice
from tests.model.tiny import PROMPTS

pytestmark = pytest.mark.on_cpu


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each tensor that a pass keeps, 0 for those that are computed again."""
    numbers: list[int] = []
    pack = recomputation._Results.pack

    def counted(self: Any, tensor: Tensor) -> Any:
        packed = pack(self, tensor)
        numbers.append(tensor.nbytes if isinstance(packed, Tensor) else 0)
        return packed

    monkeypatch.setattr(recomputation._Results, "pack", counted)
    return numbers


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_are_the_same_to_the_last_bit(
    name: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = adapted_twice(torch.bfloat16, name)
    prompts = guide.language_model.encode(PROMPTS)
    response = guide.distribution(prompts).sample((30,))
    parameters = [p for p in guide.parameters() if p.requires_grad]

    def gradients() -> list[Tensor]:
        log_prob = guide.distribution(prompts).log_prob(response)
        return list(torch.autograd.grad(log_prob.square().sum(), parameters))

    got = gradients()
    assert sizes.count(0) >= 10
    monkeypatch.setattr(cached_decoder, "pointwise_recomputation", lambda _: nullcontext())
    assert all(torch.equal(*pair) for pair in zip(got, gradients(), strict=True))


@contextmanager
def recomputing() -> Iterator[None]:
    """The context for a network in half precision on a CPU."""
    with recomputation.pointwise_recomputation(torch.empty(0, dtype=torch.bfloat16)):
        yield


def gated(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The middle of a layer: silu(a) * b, times a matrix."""
    return (torch.nn.functional.silu(a) * b) @ weight


def leaves() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, requires_grad=True) for shape in ((50, 20), (50, 20), (20, 30))]


def test_products_of_activations_are_not_kept(sizes: list[int]) -> None:
    a, b, weight = leaves()
    expected = torch.autograd.grad(gated(a, b, weight).square().sum(), [a, b, weight])
    with recomputing():
        output = gated(a, b, weight)
    # silu keeps a; * keeps silu(a) and b; @ keeps the product and the matrix
    assert sorted(sizes) == sorted([a.nbytes, 0, b.nbytes, 0, weight.nbytes])
    got = torch.autograd.grad(output.square().sum(), [a, b, weight])
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


def test_second_derivatives_are_the_same() -> None:
    a, b, weight = leaves()
    results = []
    for context in (nullcontext, recomputing):
        with context():
            output = gated(a, b, weight).square().sum()
        (grad,) = torch.autograd.grad(output, a, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), [a, b, weight]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_an_argument_that_changes_in_place_is_an_error() -> None:
    a, _, weight = leaves()
    with recomputing():
        inner = a + 0.0
        output = (inner * 2.0) @ weight
    inner.detach().add_(1.0)
    with pytest.raises(RuntimeError, match="has changed in place since the forward pass"):
        output.sum().backward()


def test_a_result_that_changes_in_place_is_kept() -> None:
    a, _, weight = leaves()
    with recomputing():
        doubled = a * 2.0
        doubled += 1.0
        output = doubled @ weight
    (grad,) = torch.autograd.grad(output.sum(), weight)
    torch.testing.assert_close(grad, (a * 2.0 + 1.0).sum(0)[:, None].expand_as(weight).detach())


def test_a_result_of_larger_arguments_is_kept(sizes: list[int]) -> None:
    a, _, weight = leaves()
    with recomputing():
        a.to(torch.bfloat16) @ weight.to(torch.bfloat16)
    assert 0 not in sizes
