"""A decoder with `start` and `extend` alone: the defaults of all other members are correct."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from model import Decoder, Prompts, ResponseDistribution, ResponseSpace

SPACE = ResponseSpace(max_new_tokens=3, vocab_size=3, end_ids=torch.tensor([0]), pad_id=0)
TWO = Prompts.from_ids([[1], [2]], ["one", "two"])


class NoMemory:
    def select(self, rows: Tensor) -> "NoMemory":
        return self


class Markov(Decoder):
    """The next token depends on the last token alone."""

    def __init__(self) -> None:
        super().__init__()
        logits = torch.linspace(-1, 2, 9, dtype=torch.float64).sin()
        self.logits = nn.Parameter(logits.view(3, 3))

    def start(self, prompts: Prompts) -> tuple[Tensor, NoMemory]:
        return self.logits[prompts.ids[:, -1]], NoMemory()

    def extend(self, state: NoMemory, ids: Tensor) -> tuple[Tensor, NoMemory]:
        return self.logits[ids], state


def test_two_methods_make_a_distribution_that_samples_as_it_scores() -> None:
    distribution = ResponseDistribution(Markov(), TWO, SPACE)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert_close(total, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    response, log_prob = distribution.sample_and_log_prob((50,))
    assert_close(log_prob, distribution.log_prob(response).detach(), rtol=0, atol=1e-12)


def test_two_methods_are_read_in_micro_batches() -> None:
    decoder, gradients = Markov(), []
    whole = ResponseDistribution(decoder, TWO, SPACE)
    for distribution in (whole, whole.in_micro_batches(3)):
        log_prob = distribution.log_prob(distribution.enumerate_support())
        weight = torch.arange(log_prob.numel()).view_as(log_prob)
        gradients += torch.autograd.grad((weight * log_prob).sum(), list(decoder.parameters()))
    assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


def test_a_decoder_without_the_base_is_refused_before_a_pass() -> None:
    class Own:
        def start(self, prompts: Prompts) -> Any:
            raise AssertionError

        extend = start

    with pytest.raises(TypeError, match=r"decoder is a Own.*derive Own from `model\.Decoder`"):
        ResponseDistribution(Own(), TWO, SPACE)  # type: ignore[arg-type]


class Scaled(Markov):
    """Logits that depend on the number of tokens that are read together."""

    def extend(self, state: NoMemory, ids: Tensor) -> tuple[Tensor, NoMemory]:
        logits, state = super().extend(state, ids)
        return logits * ids.shape[1], state


class Drifting(Scaled):
    """Right until its weights leave 0, as of a guide whose last layer starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.start_logits = self.logits.detach().clone()
        nn.init.zeros_(self.logits)

    def start(self, prompts: Prompts) -> tuple[Tensor, NoMemory]:
        return self.start_logits[prompts.ids[:, -1]], NoMemory()


class Short(Markov):
    def start(self, prompts: Prompts) -> tuple[Tensor, NoMemory]:
        logits, state = super().start(prompts)
        return logits[:, :2], state


class LastAlone(Markov):
    def extend(self, state: NoMemory, ids: Tensor) -> tuple[Tensor, NoMemory]:
        logits, state = super().extend(state, ids)
        return logits[:, -1], state


class TensorAsState(Markov):
    def start(self, prompts: Prompts) -> tuple[Tensor, Any]:
        return super().start(prompts)[0], prompts.ids


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Scaled, ValueError, r"Scaled\.extend gives tokens that are read together other .* nats"),
        (Short, ValueError, r"Short\.start returned logits of shape \(2, 2\), expected \(2, 3\)"),
        (LastAlone, ValueError, r"extend returned logits of shape \(2, 3\), expected \(2, 2, 3\)"),
        (TensorAsState, TypeError, r"the state of TensorAsState\.start is a Tensor, without"),
    ],
)
def test_a_decoder_that_draws_otherwise_than_it_scores_is_refused(
    kind: type[Decoder], error: type[Exception], message: str
) -> None:
    prompts = Prompts.from_ids([[2, 0, 1], [2]], ["one", "two"])
    with pytest.raises(error, match=message):
        ResponseDistribution(kind(), prompts, SPACE).expand([4, 2]).sample()


def test_a_decoder_that_training_moves_away_from_its_scores_is_refused_later() -> None:
    decoder = Drifting()
    distribution = ResponseDistribution(decoder, TWO, SPACE)
    distribution.sample((4,))
    nn.init.eye_(decoder.logits)
    with pytest.raises(ValueError, match="read together"):
        distribution.sample((4,))
