"""The device of `--device pretend` refuses tensors of the CPU, and counts what waits for it."""

import pytest
import torch

from tests import pretend_device


@pytest.fixture
def x() -> torch.Tensor:
    """Four numbers on the device."""
    x = torch.arange(4.0)
    if x.device.type != pretend_device.NAME:
        pytest.skip("the device is that of `--device pretend`")
    torch.get_device_module(x.device).waits()
    return x


def test_tensors_of_the_cpu_are_refused(x: torch.Tensor) -> None:
    for function in (torch.add, torch.mul, torch.dot):
        with pytest.raises(RuntimeError, match=r"the same device, but found .* pretend:0 and cpu"):
            function(x, torch.arange(4.0, device="cpu"))
    number, rows = torch.tensor(2.0, device="cpu"), torch.tensor([0, 1], device="cpu")
    assert (x * number)[rows].tolist() == [0.0, 2.0]


def test_random_numbers_are_of_its_own_generators(x: torch.Tensor) -> None:
    generator = torch.Generator(x.device).manual_seed(0)
    same = torch.Generator("cpu").manual_seed(0)
    numbers = torch.rand(3, generator=generator, device=x.device)
    assert numbers.tolist() == torch.rand(3, generator=same, device="cpu").tolist()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=same, device=x.device)


def test_waits_are_counted_where_values_or_their_number_are_read(x: torch.Tensor) -> None:
    waits = torch.get_device_module(x.device).waits
    y = (x + 1).softmax(0).where(x > 0, 0.0)[1:]
    assert waits() == {}
    assert y.sum().item() > 0
    assert waits() == {"item": 1}
    x[x > 1] = 0.0
    assert waits() == {}
    assert len(x[x < 1]) == 3
    assert waits() == {"aten::nonzero": 1}
    x[x < 1] = torch.ones(3)
    assert waits() == {"to the device": 1, "aten::_index_put_impl_": 1}
    x.cpu()
    torch.ones(2, device="cpu").to(x.device)
    assert waits() == {"to the CPU": 1, "to the device": 1}
