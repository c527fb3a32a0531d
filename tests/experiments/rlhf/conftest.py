"""All responses of the enumerable world as texts with gold rewards."""

import pytest

from experiments.rlhf.text_sample import TextSample
from tests.experiments.rlhf.small import gold


@pytest.fixture(scope="module")
def every(prior):
    return TextSample.of(prior, "the film was", gold)
