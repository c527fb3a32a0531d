"""Number of processes of `make test`."""

import os
from types import SimpleNamespace

import psutil
import pytest

from tests.conftest import pytest_generate_tests, pytest_xdist_auto_num_workers


@pytest.mark.parametrize(
    ("num_cores", "gigabytes", "expected"), [(64, 256, 64), (64, 16, 8), (2, 3, 0), (1, 8, 0)]
)
def test_each_process_has_a_core_and_memory(monkeypatch, num_cores, gigabytes, expected):
    memory = SimpleNamespace(available=1e9 * gigabytes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert pytest_xdist_auto_num_workers() == expected


def test_parameters_from_a_set_are_refused():
    mark = pytest.mark.parametrize("name", {"a", "b"}).mark
    definition = SimpleNamespace(iter_markers=lambda _: [mark], nodeid="test_it.py::test_that")
    with pytest.raises(pytest.UsageError, match="'name' is from a set: pass sorted"):
        pytest_generate_tests(SimpleNamespace(definition=definition))
