"""One model for each objective that has a state, without keeping the model alive."""

import gc
import weakref
from functools import partial

import pytest
import torch
from pyro import poutine

from inference import BestOfN_ELBO, FDivergence, SquaredResidual
from inference.objectives import AnalyticKL_ELBO, GaussNewton, Proximal_ELBO
from tests.inference.objectives.table import ONE, Table, Target, gradient


@pytest.mark.parametrize(
    "objective",
    [
        BestOfN_ELBO(4, n=2, num_prior_draws=50),
        FDivergence("forward-kl", 4),
        GaussNewton(4),
        Proximal_ELBO(4, epochs=2),
        SquaredResidual(4, log_z="prior", num_prior_draws=50),
        SquaredResidual(4, replay=4),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_an_objective_that_has_learned_of_one_model_refuses_another(objective):
    """Ranks, log Z and responses are of the first model; the same program may be wrapped."""
    model, guide = Target(), Table(1)
    response = guide.distribution(ONE).sample((4,))
    gradient(objective, model, guide, ONE, response)
    gradient(objective, poutine.block(model, hide=[]), guide, ONE, response)
    gradient(objective, model.__call__, guide, ONE, response)
    with pytest.raises(ValueError, match="of another model: make a new objective"):
        gradient(objective, Target(seed=5), guide, ONE, response)
    if isinstance(objective, GaussNewton):
        with pytest.raises(ValueError, match="gradients of another guide"):
            gradient(objective, model, Table(1), ONE, response)


@pytest.mark.parametrize("objective", [FDivergence("forward-kl", 4), GaussNewton(4)])
def test_a_loss_alone_binds_an_objective_to_no_model_and_no_guide(objective):
    objective.loss(Target(seed=5), Table(1), ONE)
    model, guide = Target(), Table(1)
    for _ in range(2):
        gradient(objective, model, guide, ONE, guide.distribution(ONE).sample((4,)))


def test_a_model_made_anew_of_the_same_parts_is_the_same():
    """Partials and functions that are made for each step, alone and inside each other."""
    model, guide, weight = Target(), Table(1), torch.ones(())

    def weighted(prompts, *, model, weight):
        return model(prompts)

    def closure(model, weight):
        return lambda prompts: weighted(prompts, model=model, weight=weight)

    response = guide.distribution(ONE).sample((4,))
    for make in (lambda *parts: partial(weighted, model=parts[0], weight=parts[1]), closure):
        objective = FDivergence("forward-kl", 4)
        for _ in range(2):
            gradient(objective, make(model, weight), guide, ONE, response)
        for parts in ((Target(seed=5), weight), (model, torch.ones(()))):
            with pytest.raises(ValueError, match="of another model"):
                gradient(objective, make(*parts), guide, ONE, response)
        objective = FDivergence("forward-kl", 4)
        gradient(objective, make(model, torch.ones(())), guide, ONE, response)
        with pytest.raises(ValueError, match="of another model"):  # a part that is gone is not None
            gradient(objective, make(model, None), guide, ONE, response)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: partial(model)])
def test_an_objective_does_not_keep_its_model_alive(wrap):
    """A model has a network, which takes memory. A new one at its address is not the same."""
    objective, model, guide = FDivergence("forward-kl", 4), Target(), Table(1)
    response = guide.distribution(ONE).sample((4,))
    gradient(objective, wrap(model), guide, ONE, response)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    with pytest.raises(ValueError, match="of another model"):
        gradient(objective, wrap(Target()), guide, ONE, response)


def test_an_objective_without_a_state_takes_any_model():
    objective, guide = AnalyticKL_ELBO(4), Table(1)
    response = guide.distribution(ONE).sample((4,))
    losses = [gradient(objective, Target(seed=s), guide, ONE, response)[0] for s in (0, 5)]
    assert abs(losses[0] - losses[1]) > 1e-3
