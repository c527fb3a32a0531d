"""Evidence is checked where it enters the model, and its wrappers score texts and tokens."""

import pytest
import torch
from torch import Tensor

from model import (
    AlignmentModel,
    BearsZeroEvidence,
    EvidenceError,
    TextEvidence,
    TokenEvidence,
    ZeroEvidenceError,
    vader_sentiment,
)
from tests.model.tiny import tiny

RESPONSE = torch.tensor([[[2, 0, 0], [3, 3, 0]], [[2, 0, 0], [2, 0, 0]], [[4, 4, 4], [0, 0, 0]]])  # [K, N, T] = [3, 2, 3]


def run(reward: object) -> Tensor:
    """Run a model of two prompts whose evidence, called `taste`, returns `reward`."""
    language_model = tiny()
    return AlignmentModel(language_model, {"taste": lambda *_: reward}, beta=1.0)(language_model.encode(["a", "b"]))


# What evidence may return


@pytest.mark.parametrize(
    ("reward", "fault"),
    [
        (torch.tensor([0.0, torch.nan]), r"'taste' returned nan at index \(1,\)"),
        (torch.tensor([torch.inf, 0.0]), r"'taste' returned inf at index \(0,\)"),
        (torch.zeros(2, 1), r"'taste' returned shape \(2, 1\), expected \(2,\)"),
        (torch.zeros(()), r"'taste' returned shape \(\), expected \(2,\)"),
        ([0.0, 0.0], r"'taste' returned list, expected a tensor of shape \(2,\).*TextEvidence"),
        (None, r"'taste' returned NoneType"),
    ],
    ids=["nan", "+inf", "wrong shape", "a scalar", "a list", "nothing"],
)
def test_what_cannot_be_a_reward_is_refused_by_name(reward: object, fault: str) -> None:
    with pytest.raises(EvidenceError, match=fault):
        run(reward)
    with pytest.raises(EvidenceError, match=fault), BearsZeroEvidence():
        run(reward)


def test_zero_evidence_is_refused_unless_the_algorithm_bears_it() -> None:
    with BearsZeroEvidence():
        assert run(torch.tensor([0.0, -torch.inf])).shape == (2, 3)
    with pytest.raises(ZeroEvidenceError, match=r"'taste' is -inf at index \(1,\).*finite penalty"):
        run(torch.tensor([0.0, -torch.inf]))


def test_any_finite_reward_passes() -> None:
    assert run(torch.tensor([-1e30, 1e30])).shape == (2, 3)
    assert run(torch.tensor([1, 0])).shape == (2, 3)


# Texts


@pytest.mark.parametrize(
    ("whole", "unique"),
    [(True, {"a b a", "c b b", "c a", "a b c c c", "c"}), (False, {"a", "b b", "c c c", ""})],
    ids=["prompt and response", "response alone"],
)
def test_text_evidence_scores_each_distinct_text_once(whole: bool, unique: set[str]) -> None:
    seen: list[str] = []

    def length(texts: list[str]) -> list[int]:
        seen.extend(texts)
        return [len(text.split()) for text in texts]

    language_model = tiny()
    prompts = language_model.encode(["a b", "c"])
    reward = TextEvidence(length, language_model, whole=whole)(prompts, RESPONSE)
    words = torch.tensor([[1, 2], [1, 1], [3, 0]]) + whole * torch.tensor([2, 1])
    assert reward.tolist() == words.tolist()
    assert len(seen) == len(unique)
    assert set(seen) == unique


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1, 3, 2)])
def test_text_evidence_has_the_shape_of_the_batch(shape: tuple[int, ...]) -> None:
    language_model = tiny()
    response = RESPONSE.expand(*shape, 3) if len(shape) > 1 else RESPONSE[0]
    reward = TextEvidence(lambda texts: [1.0] * len(texts), language_model)(language_model.encode(["a b", "c"]), response)
    assert reward.shape == shape


def test_text_evidence_keeps_the_precision_of_its_function() -> None:
    language_model = tiny()
    reward = TextEvidence(lambda texts: [1 / 3] * len(texts), language_model)(language_model.encode(["a b", "c"]), RESPONSE)
    assert (reward == 1 / 3).all()
    assert reward.dtype == torch.float64


@pytest.mark.parametrize("rewards", [[], [1.0], [1.0] * 6])
def test_text_evidence_refuses_a_wrong_number_of_rewards(rewards: list[float]) -> None:
    language_model = tiny()
    evidence = TextEvidence(lambda _: rewards, language_model)
    with pytest.raises(EvidenceError, match=f"returned {len(rewards)} numbers for 5 texts"):
        evidence(language_model.encode(["a b", "c"]), RESPONSE)


def test_vader_prefers_praise() -> None:
    bad, neutral, good = vader_sentiment(["a terrible film", "a film", "a wonderful film"])
    assert -1 <= bad < neutral == 0 < good <= 1


# Tokens


def test_token_evidence_sees_where_each_response_ends() -> None:
    language_model = tiny()
    evidence = TokenEvidence(lambda _, is_token: is_token.sum(-1), language_model)
    assert evidence(language_model.encode(["a b", "c"]), RESPONSE).tolist() == [[2, 3], [2, 2], [3, 1]]
