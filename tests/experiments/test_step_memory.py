"""Peak memory of a step: it grows with the responses of a step, and not with micro-batches."""

import pytest

from experiments.step_memory import StepMemory, main


@pytest.mark.slow
def test_the_peak_grows_with_the_number_of_responses_but_not_in_micro_batches():
    peaks = main(StepMemory(particles=(32, 128), micro_batches=(0, 8), max_new_tokens=32))
    whole = peaks[128, 0] - peaks[32, 0]
    divided = peaks[128, 8] - peaks[32, 8]
    assert whole > 200  # MB
    assert divided < whole / 4
