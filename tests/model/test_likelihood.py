"""Evidence is checked where it enters the model."""

import pytest
import torch
from torch import Tensor

from model import AlignmentModel, HardConstraintSupport, ImpossibleResponseError, LikelihoodError
from tests.model.tiny import tiny


def run(reward: object) -> Tensor:
    """Run a model of two prompts whose evidence, called `taste`, returns `reward`."""
    language_model = tiny()
    return AlignmentModel(language_model, {"taste": lambda *_: reward}, beta=1.0)(
        language_model.encode(["a", "b"])
    )


# What evidence may return


@pytest.mark.parametrize(
    ("reward", "fault"),
    [
        (torch.tensor([0.0, torch.nan]), r"'taste' returned nan at index \(1,\)"),
        (torch.tensor([torch.inf, 0.0]), r"'taste' returned inf at index \(0,\)"),
        (torch.zeros(2, 1), r"'taste' returned shape \(2, 1\), expected \(2,\)"),
        (torch.zeros(()), r"'taste' returned shape \(\), expected \(2,\)"),
        ([0.0, 0.0], r"'taste' returned list, expected a tensor of shape \(2,\).*TextReward"),
        (None, r"'taste' returned NoneType"),
    ],
    ids=["nan", "+inf", "wrong shape", "a scalar", "a list", "nothing"],
)
def test_what_cannot_be_a_reward_is_refused_by_name(reward: object, fault: str) -> None:
    with pytest.raises(LikelihoodError, match=fault):
        run(reward)
    with pytest.raises(LikelihoodError, match=fault), HardConstraintSupport():
        run(reward)


def test_zero_evidence_is_refused_unless_the_algorithm_bears_it() -> None:
    with HardConstraintSupport():
        assert run(torch.tensor([0.0, -torch.inf])).shape == (2, 3)
    with pytest.raises(
        ImpossibleResponseError, match=r"'taste' is -inf at index \(1,\).*finite penalty"
    ):
        run(torch.tensor([0.0, -torch.inf]))


def test_any_finite_reward_passes() -> None:
    assert run(torch.tensor([-1e30, 1e30])).shape == (2, 3)
    assert run(torch.tensor([1, 0])).shape == (2, 3)
