"""Number of processes of `make test`."""

import os
from types import SimpleNamespace

import psutil
import pytest

from tests.conftest import MEMORY, pytest_generate_tests, pytest_xdist_auto_num_workers


@pytest.mark.parametrize(
    ("num_cores", "num_fitting", "expected"), [(64, 100, 64), (64, 8.5, 8), (2, 1.5, 0), (1, 4, 0)]
)
def test_each_process_has_a_core_and_memory(monkeypatch, num_cores, num_fitting, expected):
    memory = SimpleNamespace(available=MEMORY * num_fitting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert pytest_xdist_auto_num_workers() == expected


def test_parameters_from_a_set_are_refused():
    mark = pytest.mark.parametrize("name", {"a", "b"}).mark
    definition = SimpleNamespace(iter_markers=lambda _: [mark], nodeid="test_it.py::test_that")
    with pytest.raises(pytest.UsageError, match="'name' is from a set: pass sorted"):
        pytest_generate_tests(SimpleNamespace(definition=definition))
