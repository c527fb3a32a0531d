"""Peak memory of a step: it grows with the responses of a step, and not with micro-batches."""

import pytest
import torch

from experiments import step_memory
from experiments.step_memory import Job, StepMemory, main, measure
from tests.forks import FORKS


@pytest.mark.slow
def test_the_peak_grows_with_the_number_of_responses_but_not_in_micro_batches(monkeypatch, capsys):
    def run_all(run, jobs, workers):
        with FORKS.Pool(1, torch.set_num_threads, [1]) as pool:
            return pool.map(run, jobs)

    monkeypatch.setattr(step_memory, "run_all", run_all)
    args = StepMemory(particles=(16, 32, 96), micro_batches=(0, 4, 16), max_new_tokens=24)
    findings = main(args)
    assert [finding.held for finding in findings] == [True, True]
    printed = capsys.readouterr().out
    assert "whole, growth of the peak from 16 to 96 responses" in printed
    assert "4 at a time, growth of the peak from 32 to 96 responses" in printed
    assert printed.count("16 responses, 16 at a time") == printed.count("16 responses, whole") == 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"prior": "no-such-folder"}, "^--prior no-such-folder: "),
        ({"max_new_tokens": 4000}, "^--prior .*: max_new_tokens is 4000, .*context of 128"),
    ],
)
def test_refusals_name_the_option(change, fault):
    with pytest.raises(SystemExit, match=fault):
        measure(Job(StepMemory(**change), 2, 0))
