"""Peak memory of a step: it grows with the responses of a step, and not with micro-batches."""

import pytest

from experiments.step_memory import StepMemory, main


@pytest.mark.slow
def test_the_peak_grows_with_the_number_of_responses_but_not_in_micro_batches():
    peaks = main(StepMemory(particles=(16, 96), micro_batches=(0, 8), max_new_tokens=24))
    whole = peaks[96, 0] - peaks[16, 0]
    divided = peaks[96, 8] - peaks[16, 8]
    assert whole > 200  # MB
    assert divided < whole / 4
