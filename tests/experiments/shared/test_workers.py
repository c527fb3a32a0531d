"""Workers are as the process that starts them: one thread, and no bars of `transformers`."""

import torch
from transformers.utils import logging

from experiments.shared.workers import run_all


def settings(_: int) -> tuple[int, bool]:
    return torch.get_num_threads(), logging.is_progress_bar_enabled()


def test_a_worker_has_one_thread_and_draws_no_bars():
    assert list(run_all(settings, [0], workers=2)) == [(1, False)]
