"""`token_log_prob` is `log_softmax` and `gather`, in value and in gradient."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from model.prior.logits import draw_token, token_log_prob


def plain(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]


@pytest.fixture(params=[1.0, 0.3, 2.0])
def temperature(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(params=[1, 20, 1 << 22], ids=["row by row", "two rows at a time", "at once"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.prior.logits.CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_value_and_gradient_are_those_of_log_softmax(
    shape: tuple[int, ...], temperature: float
) -> None:
    logits = (5 * torch.randn(*shape, 10, dtype=torch.float64)).requires_grad_()
    ids, weight = torch.randint(10, shape), torch.randn(shape, dtype=torch.float64)
    value, expected = token_log_prob(logits, ids, temperature), plain(logits, ids, temperature)
    assert_close(value, expected, rtol=0, atol=1e-12)
    gradient, expected = (
        torch.autograd.grad((weight * x).sum(), logits)[0] for x in (value, expected)
    )
    assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_logits_may_be_a_view_that_is_not_contiguous() -> None:
    logits = torch.randn(3, 10, 2, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(10, (2, 3)).t()
    value, expected = (
        token_log_prob(logits.transpose(1, 2), ids),
        plain(logits.transpose(1, 2), ids, 1.0),
    )
    assert_close(value, expected)
    assert_close(
        torch.autograd.grad(value.sum(), logits), torch.autograd.grad(expected.sum(), logits)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_to_float32(dtype: torch.dtype, temperature: float) -> None:
    logits, ids = torch.randn(4, 10).to(dtype).requires_grad_(), torch.randint(10, (4,))
    value, expected = (
        token_log_prob(logits, ids, temperature),
        plain(logits.float(), ids, temperature),
    )
    assert value.dtype == torch.float32
    assert_close(value, expected)
    gradient, expected = (torch.autograd.grad(x.sum(), logits)[0] for x in (value, expected))
    assert gradient.dtype == dtype
    assert_close(gradient, expected)


def test_the_logits_are_left_as_they_were() -> None:
    logits = torch.randn(4, 10, requires_grad=True)
    before = logits.detach().clone()
    token_log_prob(logits, torch.randint(10, (4,)), 0.5).sum().backward()
    assert torch.equal(logits, before)


def test_a_token_of_a_large_vocabulary_is_that_of_one_running_sum():
    prob = (3 * torch.randn(64, 5000)).softmax(-1)
    prob[:, 300:700] = 0.0
    uniform = torch.rand(64, dtype=torch.float64)
    cdf = prob.cumsum(-1, dtype=torch.float64)
    expected = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).squeeze(1)
    token, log_prob = draw_token(prob.log(), 1.0, uniform)
    assert torch.equal(token, expected)
    expected_log_prob = (prob / prob.sum(-1, keepdim=True)).log().gather(-1, token[:, None])
    assert_close(log_prob, expected_log_prob[:, 0])


@pytest.mark.parametrize("size", [900, 5000])
@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, 1.0])
def test_a_token_of_probability_zero_is_never_drawn(size, uniform):
    logits = torch.full((2, size), -torch.inf)
    logits[0, 700] = 0.0
    logits[1, [3, 899]] = 0.0
    token, _ = draw_token(logits, 1.0, torch.full((2,), uniform, dtype=torch.float64))
    assert token.tolist() == [700, 3 if uniform < 0.5 else 899]


@pytest.mark.parametrize("size", [5, 3001])
def test_nan_logits_draw_a_token_of_the_vocabulary(size):
    """Its log-probability is NaN, which a decode checks later. Another id would stop a GPU."""
    logits = torch.full((2, size), torch.nan)
    token, log_prob = draw_token(logits, 1.0, torch.full((2,), 0.5, dtype=torch.float64))
    assert (token < size).all()
    assert log_prob.isnan().all()


def test_a_rare_token_keeps_its_probability() -> None:
    """A running sum in float32 would be 1 before the rare token."""
    logits, uniform = torch.tensor([[0.0, -20.7]]), torch.tensor([1 - 1e-10], dtype=torch.float64)
    token, log_prob = draw_token(logits, 1.0, uniform)
    assert (token.item(), log_prob.item()) == (1, pytest.approx(-20.7, abs=1e-4))
