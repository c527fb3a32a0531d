"""The model is p0(x) exp(r(x)/beta) prod_j f_j(x), as a Pyro program."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.testing import assert_close

from guides import FineTuned
from inference import Enumeration, joint_at, rejection_sampling
from model import (
    AlignmentModel,
    ImpossibleResponseError,
    LanguageModel,
    OtherBetaError,
    Prompts,
    TokenReward,
)

GOOD, DULL = 7, 9


def contains(
    word: int, reward: float, language_model: LanguageModel, upper_bound: float | None = None
) -> TokenReward:
    """`reward` where the response has the word, else 0."""
    return TokenReward(
        lambda response, is_token: torch.where(
            (is_token & (response == word)).any(-1), reward, 0.0
        ),
        language_model,
        upper_bound,
    )


@pytest.fixture
def response(prior: LanguageModel, prompts: Prompts) -> Tensor:
    return prior(prompts).sample((16,))


@pytest.mark.parametrize("beta", [1.0, 0.1, 5.0])
def test_rewards_add_up_and_are_divided_by_beta(
    prior: LanguageModel, prompts: Prompts, response: Tensor, beta: float
) -> None:
    reward = {"good": contains(GOOD, 2.0, prior), "dull": contains(DULL, -3.0, prior)}
    joint = joint_at(AlignmentModel(prior, reward, beta), prompts, response)
    reward = 2.0 * (response == GOOD).any(-1) - 3.0 * (response == DULL).any(-1)
    assert len(reward.unique()) >= 3
    assert_close(joint.log_prior, prior(prompts).log_prob(response), rtol=0, atol=1e-12)
    assert_close(joint.log_likelihood, reward / beta, check_dtype=False)
    assert_close(joint.log_joint, joint.log_prior + joint.log_likelihood)


@pytest.mark.parametrize("per_prompt", [False, True], ids=["one beta", "a beta for each prompt"])
def test_a_factor_is_not_divided_by_beta(
    prior: LanguageModel, prompts: Prompts, response: Tensor, per_prompt: bool
) -> None:
    betas = (0.2, 3.0) if per_prompt else (0.2, 0.2)
    model = AlignmentModel(
        prior,
        contains(GOOD, 2.0, prior),
        dict(zip(prompts.names(), betas, strict=True)) if per_prompt else betas[0],
        {"dull": contains(DULL, -0.7, prior)},
    )
    good, dull = ((response == word).any(-1).double() for word in (GOOD, DULL))
    expected = 2.0 * good / torch.tensor(betas).double() - 0.7 * dull
    assert (good * dull).any() or (good.any() and dull.any())
    assert_close(joint_at(model, prompts, response).log_likelihood, expected)


def test_the_reward_of_a_model_is_the_sum_of_its_rewards_without_its_factors(
    prior: LanguageModel, prompts: Prompts, response: Tensor
) -> None:
    rewards = {"good": contains(GOOD, 2.0, prior), "dull": contains(DULL, -3.0, prior)}
    model = AlignmentModel(prior, rewards, 0.1, {"never": contains(GOOD, -torch.inf, prior)})
    expected = sum(reward(prompts, response) for reward in rewards.values())
    assert_close(model.reward(prompts, response), expected, check_dtype=False)
    assert AlignmentModel(prior, {}, 0.1).reward(prompts, response).eq(0).all()


def test_the_reward_of_an_impossible_response_is_minus_infinity(
    prior: LanguageModel, prompts: Prompts, response: Tensor
) -> None:
    rewards = {"good": contains(GOOD, -torch.inf, prior), "dull": contains(DULL, -3.0, prior)}
    reward = AlignmentModel(prior, rewards, 0.1).reward(prompts, response)
    is_impossible = (response == GOOD).any(-1)
    assert is_impossible.any()
    assert torch.equal(reward.isneginf(), is_impossible)
    shared = AlignmentModel(prior, rewards, 0.1).reward(prompts, response[:, :1])
    assert torch.equal(shared[:, 0], shared[:, 1])


def test_one_factor_serves_two_betas_unless_made_for_one_beta(
    prior: LanguageModel, prompts: Prompts, response: Tensor
) -> None:
    factor = contains(GOOD, 1.0, prior)
    log_likelihood = [
        joint_at(AlignmentModel(prior, {}, beta, {"good": factor}), prompts, response)
        for beta in (0.1, 2.0)
    ]
    assert torch.equal(log_likelihood[0].log_likelihood, log_likelihood[1].log_likelihood)

    class MadeForBeta:
        beta = 0.1

        def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
            return factor(prompts, response)

    AlignmentModel(prior, {}, 0.1, {"good": MadeForBeta()})
    with pytest.raises(OtherBetaError, match=r"'good' was made for beta 0\.1, .* has beta 0\.2"):
        AlignmentModel(prior, {}, 0.2, {"good": MadeForBeta()})
    betas = dict(zip(prompts.names(), (0.1, 0.2), strict=True))
    with pytest.raises(OtherBetaError, match=r"has beta 0\.1, 0\.2"):
        AlignmentModel(prior, {}, betas, {"good": MadeForBeta()})
    # the `beta` of a reward is the reward's own affair
    AlignmentModel(prior, MadeForBeta(), 0.2)


def test_the_program_is_one_plate_with_a_response_and_its_factors(
    prior: LanguageModel, prompts: Prompts
) -> None:
    model = AlignmentModel(
        prior, {"good": contains(GOOD, 2.0, prior), "dull": contains(DULL, -3.0, prior)}, beta=1.0
    )
    with pyro.plate("particles", 4, dim=-2):
        trace = poutine.trace(model).get_trace(prompts)
    trace.compute_log_prob()
    shapes = {
        name: tuple(trace.nodes[name]["log_prob"].shape) for name in ("response", "good", "dull")
    }
    frames = {frame.name for name in shapes for frame in trace.nodes[name]["cond_indep_stack"]}
    assert shapes == {"response": (4, 2), "good": (4, 2), "dull": (4, 2)}
    assert frames == {"particles", "prompts"}
    assert trace.nodes["_RETURN"]["value"].shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [([2.0], 4.0), ([2.0, -0.5], 3.0), ([2.0, None], None), ([None], None), ([0.0], 0.0)],
)
def test_the_log_likelihood_bound_is_known_if_every_bound_is(
    prior: LanguageModel, prompts: Prompts, bounds: list[float | None], expected: float | None
) -> None:
    reward = {str(i): contains(GOOD, 1.0, prior, bound) for i, bound in enumerate(bounds)}
    assert AlignmentModel(prior, reward, beta=0.5).log_likelihood_bound(prompts) == expected


def test_the_log_likelihood_bound_divides_rewards_by_the_beta_of_each_prompt_and_no_factor(
    prior: LanguageModel, prompts: Prompts
) -> None:
    betas = dict(zip(prompts.names(), (0.5, 2.0), strict=True))
    factors = {"dull": contains(DULL, -0.7, prior, upper_bound=0.25)}
    reward = contains(GOOD, 2.0, prior, upper_bound=2.0)
    model = AlignmentModel(prior, reward, betas, factors)
    assert model.log_likelihood_bound(prompts).tolist() == [4.25, 1.25]
    assert AlignmentModel(prior, reward, 0.5, factors).log_likelihood_bound(prompts) == 4.25
    unbounded = {"dull": lambda _, response: torch.zeros(response.shape[:-1])}
    assert AlignmentModel(prior, reward, 0.5, unbounded).log_likelihood_bound(prompts) is None


@pytest.mark.parametrize("vectorize", [False, True], ids=["one by one", "vectorised"])
def test_pyros_own_svi_stops_at_an_impossible_response_and_leaves_the_guide_as_it_was(
    prior: LanguageModel, prompts: Prompts, vectorize: bool
) -> None:
    model = AlignmentModel(prior, contains(GOOD, -torch.inf, prior), beta=1.0)
    guide = FineTuned(prior)
    before = {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}
    objective = Trace_ELBO(num_particles=8, vectorize_particles=vectorize, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), objective)
    with pytest.raises(ImpossibleResponseError, match="'reward' is -inf"):
        svi.step(prompts)
    assert_close(dict(guide.named_parameters()), before, rtol=0, atol=0)


def test_a_name_that_the_model_uses_is_refused(prior: LanguageModel) -> None:
    match = r"named 'response', expected a text other than .prompts. and"
    with pytest.raises(ValueError, match=match):
        AlignmentModel(prior, {"response": lambda _, response: response[..., 0].double()}, beta=1.0)


# A beta for each prompt


def test_each_prompt_has_the_posterior_of_its_own_beta(
    prior: LanguageModel, prompts: Prompts
) -> None:
    betas = dict(zip(prompts.names(), (0.5, 2.0), strict=True))
    reward = contains(GOOD, 2.0, prior, upper_bound=2.0)
    both = AlignmentModel(prior, reward, betas)
    truth = Enumeration(both, prompts)
    for n, beta in enumerate(betas.values()):
        alone = Enumeration(AlignmentModel(prior, reward, beta), prompts[[n]])
        assert_close(truth.log_posterior[:, [n]], alone.log_posterior, rtol=0, atol=1e-12)
    assert both.log_likelihood_bound(prompts).tolist() == [4.0, 1.0]
    assert both.log_likelihood_bound(prompts[[1]]).tolist() == [1.0]
    draws = rejection_sampling(both, prompts, num_samples=5000)
    assert_close(
        draws.diagnostics["acceptance"],
        (truth.log_z - torch.tensor([4.0, 1.0])).exp(),
        rtol=0,
        atol=0.03,
    )


def test_a_wrong_or_missing_beta_is_refused(prior: LanguageModel, prompts: Prompts) -> None:
    first, second = prompts.names()
    with pytest.raises(ValueError, match="beta is 0, expected a positive finite number"):
        AlignmentModel(prior, contains(GOOD, 1.0, prior), {first: 1.0, second: 0})
    model = AlignmentModel(prior, contains(GOOD, 1.0, prior), {first: 1.0})
    with pytest.raises(ValueError, match=f"beta has no entry '{second}', for the prompt 'the plot"):
        model(prompts)
    with pytest.raises(ValueError, match="a beta for each prompt"):
        _ = model.beta
