"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from model.common.devices import give_back_freed_memory

MB = 1_000_000


def resident() -> int:
    """Resident memory of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.on_cpu
@pytest.mark.skipif(sys.platform != "linux", reason="reads the files of Linux")
def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [torch.ones(16_000) for _ in range(2_000)]  # 64 kB each, from the heap
    last = blocks[-1]
    del blocks
    before = resident()
    give_back_freed_memory()
    assert before - resident() > 60 * MB
    assert last.sum() == 16_000
