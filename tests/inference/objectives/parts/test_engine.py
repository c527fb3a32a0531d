"""Batches of another engine: corrected by weights, the gradient of the guide's own draws."""

import math

import pytest
import torch

from guides import FineTuned
from inference import Enumeration, fit, log_guide_at
from inference.kl_estimators import KL_ESTIMATORS
from inference.objectives import GRPO, Proximal_ELBO
from inference.objectives.parts.draws import matrices
from inference.objectives.parts.engine import EngineDraws, TransformersEngine
from inference.objectives.parts.surrogates import SURROGATES
from inference.objectives.squared_residual import SquaredResidual
from inference.response_site import ResponseSiteError
from inference.svi.step_numbers import step_limits, step_size
from model import AlignmentModel, LanguageModel
from tests.inference.objectives.table import (
    ONE,
    SPACE,
    TWO,
    Drawn,
    Table,
    Target,
    autograd,
    gradient,
    mean_gradient,
    posterior_guide,
)


def engine_of(proposal: Table, response: torch.Tensor):
    """An engine that draws given responses, from a proposal."""

    def engine(prompts, num_samples):
        log_prob = proposal.distribution(prompts).log_prob_per_token(response).detach()
        return EngineDraws(response, log_prob)

    return engine


def without_a_token(seed: int) -> Table:
    """A guide that cannot begin with the token 2."""
    guide = Table(seed)
    with torch.no_grad():
        guide.first[:, 2] = -math.inf
    return guide


def gradient_of_elbo(model, guide) -> torch.Tensor:
    """Over every response that the guide can draw."""
    truth = Enumeration(model, ONE)
    log_guide = log_guide_at(guide, ONE, truth.support)
    possible = log_guide > -math.inf
    log_guide, log_joint = log_guide[possible], truth.log_joint[possible]
    return autograd(-(log_guide.exp() * (log_joint - log_guide)).sum(), guide)


@pytest.mark.parametrize("make", [Table, without_a_token])
def test_mean_gradient_of_an_engines_batches_is_that_of_the_elbo(make):
    """Over every pair of draws of the engine, which is another distribution than the guide."""
    model, guide, proposal = Target(), make(1), Table(2)
    truth = Enumeration(model, ONE)
    prob = truth.log_guide(proposal).exp()[:, 0]
    total = torch.zeros(())
    for i in range(len(prob)):
        for j in range(len(prob)):
            drawn = truth.support[[i, j]]
            engine = engine_of(proposal, drawn)
            objective = Proximal_ELBO(2, epochs=1, clip=None, engine=engine)
            part = gradient(objective, model, guide, ONE, truth.support[[0, 0]])[1]
            total = total + prob[i] * prob[j] * part
    torch.testing.assert_close(total, gradient_of_elbo(model, guide), rtol=1e-10, atol=1e-12)


def test_without_weights_the_batches_of_an_engine_have_another_gradient():
    model, guide, proposal = Target(), Table(1), Table(2)
    expected = gradient_of_elbo(model, guide)

    def on_policy() -> Proximal_ELBO:
        return Proximal_ELBO(2, epochs=1, clip=None)

    on_guide = mean_gradient(on_policy, model, guide, ONE, 2)
    torch.testing.assert_close(on_guide, expected, rtol=1e-10, atol=1e-12)
    uncorrected = mean_gradient(on_policy, model, guide, ONE, 2, proposal)
    assert (uncorrected - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (Proximal_ELBO, {"clip": 0.3}),
        (GRPO, {"ratio": "token"}),
        (GRPO, {"ratio": "divergence", "clip": 0.05}),
        (GRPO, {"ratio": "response", "kl": "reward"}),
        (SquaredResidual, {}),
    ],
)
def test_an_engine_is_the_guide_that_drew_the_batch(objective, options):
    """The first step on a batch of an engine is the second on a batch of an earlier guide."""
    model, old, new = Target(), Table(1), Table(2)
    response = old.distribution(TWO).sample((5,))
    twice = objective(5, epochs=2, **options)
    gradient(twice, model, old, TWO, response)
    expected = gradient(twice, model, new, TWO, response)
    once = objective(5, epochs=1, engine=engine_of(old, response), **options)
    other = new.distribution(TWO).sample((5,))
    actual = gradient(once, model, new, TWO, other)
    assert actual[0] == pytest.approx(expected[0], rel=1e-10)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-10, atol=1e-12)


# the weight of `tapered` is 1 for A > 0, and the pull of `quadratic` grows without limit
LIMITS = sorted(SURROGATES.keys() - {"tapered", "quadratic"})


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (Proximal_ELBO, {}),
        (Proximal_ELBO, {"clip": None}),
        *((GRPO, {"ratio": name, "kl": "reward"}) for name in LIMITS),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_response_that_the_guide_cannot_draw_is_the_limit_of_a_rare_one(objective, options, seed):
    response = torch.tensor([[[2, 1]], [[1, 2]], [[2, 2]], [[0, 0]]])
    numbers = []
    for log_prob in (-200.0, -math.inf):  # exp(-200) also where a covariance has log q as factor
        guide = Table(seed + 1)
        with torch.no_grad():
            guide.first[:, 2] = log_prob
        once = objective(4, epochs=1, engine=engine_of(Table(seed + 2), response), **options)
        loss, grad = gradient(once, Target(seed=seed), guide, ONE, response)
        numbers.append(torch.tensor([loss, *once.metrics.values(), *grad]))
        assert torch.stack(step_limits(matrices(once.draws), 0.0)).isfinite().all()
        assert step_size(Drawn(guide, response), once.draws) < 1e-20
    torch.testing.assert_close(*numbers, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_a_token_that_the_guide_cannot_draw_has_no_penalty(estimator):
    """The KL of such a token is infinite as a loss, and has no gradient."""
    response = torch.tensor([[[2, 1]], [[1, 2]]])
    engine, guides = engine_of(Table(2), response), (without_a_token(1), Table(0))
    loss, without = (
        gradient(
            GRPO(2, kl_weight=c, estimator=estimator, engine=engine),
            Target(),
            guides[0],
            ONE,
            response,
        )[0]
        for c in (1.0, 0.0)
    )
    log_guide, log_prior = (g.distribution(ONE).log_prob_per_token(response) for g in guides)
    penalty = KL_ESTIMATORS[estimator](log_guide - log_prior)
    penalty[0, 0, 0] = 0.0
    assert loss - without == pytest.approx(penalty.sum().item() / 2)


def test_a_residual_at_a_response_that_the_guide_cannot_draw_is_refused():
    response = torch.tensor([[[2, 1]], [[1, 2]]])
    objective = SquaredResidual(2, engine=engine_of(Table(2), response))
    with pytest.raises(ValueError, match="a response that the guide cannot draw"):
        gradient(objective, Target(), without_a_token(1), ONE, response)


def test_residuals_vanish_at_the_posterior_for_any_engine():
    model = Target()
    guide = posterior_guide(model, ONE)
    response = Table(2).distribution(ONE).sample((4,))
    objective = SquaredResidual(4, engine=engine_of(Table(2), response))
    assert gradient(objective, model, guide, ONE, response)[1].norm() < 1e-12


def test_generate_is_an_engine_whose_numbers_are_those_of_the_network(prior):
    """Prompts of different lengths; every response with its end, and padding after it."""
    prompts = prior.encode(["the film was", "the plot"])
    draws = TransformersEngine(prior.network, prior)(prompts, 32)
    assert draws.response.shape == draws.log_prob.shape == (32, 2, 3)
    assert prior.space.contains(draws.response).all()
    expected = prior(prompts).log_prob_per_token(draws.response)
    torch.testing.assert_close(draws.log_prob, expected.double(), rtol=1e-5, atol=1e-5)
    warm = TransformersEngine(prior.network, prior, temperature=2.0)(prompts, 32)
    expected = prior(prompts).at_temperature(2.0).log_prob_per_token(warm.response)
    torch.testing.assert_close(warm.log_prob, expected.double(), rtol=1e-5, atol=1e-5)


def test_a_fit_on_the_draws_of_another_network_reaches_the_guides_posterior(prior, prompts):
    """The engine keeps the prior's weights; the guide leaves them."""
    model = AlignmentModel(prior, lambda _, response: (response == 7).any(-1).double(), beta=0.5)
    guide = FineTuned(prior)
    before = Enumeration(model, prompts).kl_guide_posterior(guide).mean()
    engine = TransformersEngine(prior.network, prior)
    objective = Proximal_ELBO(32, epochs=1, clip=None, engine=engine)
    fit(model, guide, prompts, num_steps=15, objective=objective, progress=False)
    assert Enumeration(model, prompts).kl_guide_posterior(guide).mean() < 0.3 * before


def test_lists_of_a_server_become_rows_with_padding():
    draws = EngineDraws.of_lists(
        SPACE, [[[1, 2], [0]], [[2, 0], [1, 1]]], [[[-1.0, -2.0], [-3.0]], [[-4.0, -5.0], [-6, -7]]]
    )
    assert draws.response.tolist() == [[[1, 2], [2, 0]], [[0, 0], [1, 1]]]
    assert draws.log_prob.tolist() == [[[-1, -2], [-4, -5]], [[-3, 0], [-6, -7]]]


@pytest.mark.parametrize(
    ("response", "log_prob", "error", "fault"),
    [
        ([[[1, 2]]], [[[-1.0, -1.0]]], ResponseSiteError, "of shape"),
        ([[[0, 2]], [[1, 1]]], [[[-1.0, -1.0]]] * 2, ResponseSiteError, "after its end"),
        ([[[1, 2]], [[1, 3]]], [[[-1.0, -1.0]]] * 2, ResponseSiteError, "token ids"),
        ([[[1, 2]], [[1, 1]]], [[[-1.0, math.nan]]] * 2, ValueError, "NaN"),
        ([[[1, 2]], [[1, 1]]], [[[0.5, -1.0]]] * 2, ValueError, "above 0"),
        ([[[1, 2]], [[1, 1]]], [[[-1.0, -1j]]] * 2, ValueError, "real numbers"),
        ([[[1, 2]], [[1, 1]]], [[-1.0, -1.0]] * 2, ValueError, r"shape \(2, 1, 2\)"),
    ],
)
def test_draws_that_are_no_responses_are_refused(response, log_prob, error, fault):
    draws = EngineDraws(torch.tensor(response), torch.tensor(log_prob))
    objective = Proximal_ELBO(2, engine=lambda prompts, num_samples: draws)
    with pytest.raises(error, match=fault):
        gradient(objective, Target(), Table(1), ONE, torch.tensor([[[1, 1]], [[2, 2]]]))


def test_an_engine_has_a_temperature_of_its_own():
    with pytest.raises(ValueError, match=r"exploration_kl .* beside an engine"):
        SquaredResidual(4, exploration_kl=0.1, engine=engine_of(Table(2), torch.zeros(4, 1, 2)))
    with pytest.raises(TypeError, match="engine"):
        Proximal_ELBO(4, engine=LanguageModel.__name__)
