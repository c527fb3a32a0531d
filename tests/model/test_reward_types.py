"""Rewards of any type become float64: r/beta, weighted sums, tilts and aggregations."""

import math

import pytest
import torch
from torch import Tensor

from inference import Enumeration, importance_sampling
from model import (
    AlignmentModel,
    Constraint,
    LanguageModel,
    LikelihoodError,
    OptimalityModel,
    Prompts,
    Tilt,
    TokenReward,
    WeightedSum,
    grammar_prior,
)
from model.preferences import AGGREGATIONS

TYPES = {
    "float16": 70.0,
    "bfloat16": 70.5,
    "float32": 0.1,
    "int64": 2**24 + 1,
    "int8": 100,
    "bool": True,
}
"""A reward in each type that arithmetic in that type, or in float32, gets wrong."""


class Typed:
    """Reward of one value for responses that begin with `good` (7), 0 for the others."""

    def __init__(self, value: float, dtype: torch.dtype, upper_bound: float | None = None) -> None:
        self.value, self.dtype, self.upper_bound = value, dtype, upper_bound

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        return ((response[..., 0] == 7).double() * self.value).to(self.dtype)


@pytest.fixture(scope="module")
def prior() -> LanguageModel:
    return grammar_prior(max_new_tokens=1)


@pytest.fixture(scope="module")
def prompts(prior: LanguageModel) -> Prompts:
    return prior.encode(["the film was"])


@pytest.fixture(params=TYPES)
def reward(request: pytest.FixtureRequest) -> Typed:
    return Typed(TYPES[request.param], getattr(torch, request.param))


def exact(reward: Typed) -> float:
    """The number that the reward's type holds."""
    return torch.tensor(reward.value).to(reward.dtype).double().item()


@pytest.mark.parametrize("beta", [1e-3, 0.3])
def test_reward_over_beta_is_that_of_float64(
    prior: LanguageModel, prompts: Prompts, reward: Typed, beta: float
) -> None:
    truth = Enumeration(AlignmentModel(prior, reward, beta), prompts)
    good = truth.support[:, 0, 0] == 7
    assert truth.log_likelihood.dtype == torch.float64
    assert (truth.log_likelihood[good] == exact(reward) / beta).all()
    assert truth.log_z.isfinite().all()
    sampled = importance_sampling(AlignmentModel(prior, reward, beta), prompts, num_samples=512)
    assert sampled.mean(reward(prompts, sampled.response).double()).item() == pytest.approx(
        (truth.log_posterior.exp()[good].sum() * exact(reward)).item(), rel=0.5
    )


def test_sums_and_tilts_are_in_float64(
    prior: LanguageModel, prompts: Prompts, reward: Typed
) -> None:
    response = prior(prompts).enumerate_support()
    good = response[:, 0, 0] == 7
    weighted = WeightedSum({"one": (1000.1, reward), "other": (0.1, reward)})(prompts, response)
    assert (weighted[good] == 1000.1 * exact(reward) + 0.1 * exact(reward)).all()
    tilt = Tilt({"one": reward}, {"one": 1000.1})
    assert (tilt(prompts, response)[good] == 1000.1 * exact(reward)).all()


def test_optimality_is_in_float64(prior: LanguageModel, prompts: Prompts) -> None:
    reward = Typed(70.0, torch.float16, upper_bound=70.5)
    model = AlignmentModel(prior, reward, 1e-3)
    truth = Enumeration(OptimalityModel(model), prompts)
    assert torch.allclose(truth.log_posterior, Enumeration(model, prompts).log_posterior)


@pytest.mark.parametrize(("scale", "beta"), [(1e300, 1e-10), (-1e300, 1e-10), (1e308, 0.1)])
def test_value_that_float64_does_not_hold_is_named(
    prior: LanguageModel, prompts: Prompts, scale: float, beta: float
) -> None:
    huge = Typed(scale, torch.float64)
    match = r"reward 'taste' is .* and -?inf divided by beta, expected a finite number"
    with pytest.raises(LikelihoodError, match=match):
        Enumeration(AlignmentModel(prior, {"taste": huge}, beta), prompts)
    match = r"reward 'taste' is .* and -?inf times its weight, 1e\+10"
    with pytest.raises(LikelihoodError, match=match):
        WeightedSum({"taste": (1e10, huge)})(prompts, prior(prompts).enumerate_support())


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, "1", True])
def test_an_upper_bound_is_a_finite_number(prior: LanguageModel, bound: float) -> None:
    def reward(_: Prompts, response: torch.Tensor) -> torch.Tensor:
        return response[..., 0]

    reward.upper_bound = bound
    for make in (
        lambda: AlignmentModel(prior, {"taste": reward}, 1.0),
        lambda: WeightedSum({"taste": (1.0, reward)}),
    ):
        match = r"the `upper_bound` of reward 'taste' is .*, expected a finite number"
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(ValueError, match=r"upper_bound is .*, expected a finite number"):
        TokenReward(lambda response, _: response[..., 0], prior, upper_bound=bound)


def test_a_threshold_is_rounded_as_rewards_are(prior: LanguageModel, prompts: Prompts) -> None:
    """0.7 in float32 or float16 is less than 0.7; some thresholds exceed the range of float16."""
    response = prior(prompts).enumerate_support()
    good = response[..., 0] == 7
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(
            Constraint(Typed(0.7, dtype), at_least=0.7).holds(prompts, response), good
        )
        assert torch.equal(
            Constraint(Typed(0.7, dtype), at_most=0.7).holds(prompts, response),
            torch.ones_like(good),
        )
    assert (
        not Constraint(Typed(7.0, torch.float16), at_least=70_000.0).holds(prompts, response).any()
    )
    assert torch.equal(
        Constraint(Typed(1, torch.int64), at_least=0.5).holds(prompts, response), good
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_rewards_are_aggregated_in_float64(name: str, dtype: torch.dtype) -> None:
    rewards = torch.tensor([[70.0], [70.5], [3.25]], dtype=dtype)
    assert torch.equal(
        AGGREGATIONS[name](rewards, 1e-3), AGGREGATIONS[name](rewards.double(), 1e-3)
    )


@pytest.mark.parametrize(
    ("taste", "kind"),
    [
        (lambda _, response: response.sum(-1).double().cpu().to_sparse(), "torch.float64, .*_coo"),
        (Typed(1, torch.complex64), "torch.complex64, .*"),
    ],
)
def test_sparse_and_complex_rewards_are_refused(prior, prompts, taste, kind) -> None:
    with pytest.raises(LikelihoodError, match=f"'taste' returned {kind}, expected real numbers"):
        Enumeration(AlignmentModel(prior, {"taste": taste}, 1.0), prompts)
