"""Leave-one-out: unbiased, equal to VarGrad on every sample, no variance at the posterior."""

import itertools
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate

from experiments.shared.gradients import moved_guide
from guides import FineTuned
from inference import Enumeration, LeaveOneOut_ELBO, joint_at, log_guide_at
from inference.objectives.leave_one_out import RewardOnly
from inference.programs import parameter_scope
from inference.response_site import ResponseSiteError
from model import AlignmentModel, TextReward, vader_sentiment
from tests.inference.objectives.table import ONE, Table, Target, _Drawn, gradient, reward


def test_equals_vargrad_on_every_sample(model, guide, prompts):
    """Half the gradient of the variance of the log-weights, samples detached (arXiv 2010.10436)."""
    response = guide.distribution(prompts).sample((6,))
    _, leave_one_out = gradient(LeaveOneOut_ELBO(6), model, guide, prompts, response)
    guide.zero_grad()
    log_weight = joint_at(model, prompts, response).log_joint - log_guide_at(
        guide, prompts, response
    )
    (0.5 * log_weight.var(0, unbiased=True).sum()).backward()
    vargrad = torch.cat([parameter.grad.flatten() for parameter in guide.parameters()])
    assert torch.allclose(leave_one_out, vargrad, rtol=1e-9, atol=1e-12)


def test_loss_is_that_of_trace_elbo(model, guide, prompts):
    response = guide.distribution(prompts).sample((4,))
    reference = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    ours, _ = gradient(LeaveOneOut_ELBO(4), model, guide, prompts, response)
    theirs, _ = gradient(reference, model, guide, prompts, response)
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.on_cpu  # Pyro's own sites draw there
def test_any_pyro_program():
    """Several sites, some outside the plate: the mean gradient equals Trace_ELBO's, by sampling."""
    data = torch.tensor([0.0, 1.0, 1.0])

    def model():
        coin = pyro.sample("coin", dist.Bernoulli(0.5))
        with pyro.plate("data", 3, dim=-1):
            flip = pyro.sample("flip", dist.Bernoulli(0.3 + 0.4 * coin))
            pyro.sample("seen", dist.Normal(flip, 0.5), obs=data)

    def guide():
        logits = pyro.param("logits", torch.tensor([0.3, -0.2]))
        pyro.sample("coin", dist.Bernoulli(logits=logits[0]))
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("flip", dist.Bernoulli(logits=logits[1].expand(3)))

    def mean_gradient(objective):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            objective.loss_and_grads(model, guide)
            return pyro.param("logits").grad.clone()

    ours = mean_gradient(LeaveOneOut_ELBO(40_000))
    theirs = mean_gradient(
        Trace_ELBO(num_particles=40_000, vectorize_particles=True, max_plate_nesting=1)
    )
    assert torch.allclose(ours, theirs, atol=0.05)


@pytest.mark.parametrize(
    "make", [lambda prior: prior, lambda prior: lambda prompts: None], ids=["prior", "empty"]
)
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_a_guide_that_draws_nothing_is_refused_by_name(model, small_prior, prompts, make):
    with pytest.raises(ResponseSiteError, match="draws nothing"):
        LeaveOneOut_ELBO(2).loss_and_grads(model, make(small_prior), prompts)


@pytest.mark.on_cpu  # Pyro's own sites draw there
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_a_guide_that_lacks_a_latent_site_is_refused_by_name(model, small_prior, prompts):
    def with_another(prompts):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        model(prompts)

    guide, hidden = FineTuned(small_prior), poutine.block(with_another, hide=["z"])
    assert LeaveOneOut_ELBO(2).loss_and_grads(hidden, guide, prompts) < math.inf
    with pytest.raises(ResponseSiteError, match=r"lacks the latent sites \['z'\]"):
        LeaveOneOut_ELBO(2).loss_and_grads(with_another, guide, prompts)


@pytest.mark.on_cpu  # Pyro's own sites draw there
def test_reparameterized_site_is_refused_by_name():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    with (
        pyro.get_param_store().scope(),
        pytest.raises(NotImplementedError, match="site 'z' is reparameterized"),
    ):
        LeaveOneOut_ELBO(4, max_plate_nesting=0).loss_and_grads(model, guide)


def test_trains_the_models_parameters_too():
    def model():
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("prior", torch.tensor(0.0))))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=torch.tensor(2.0)))

    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        LeaveOneOut_ELBO(1000, max_plate_nesting=0).loss_and_grads(model, guide)
        expected = -(torch.tensor(2.0).sigmoid() - 0.5)
        assert pyro.param("prior").grad.item() == pytest.approx(expected.item(), abs=0.05)


def _all(size):
    return pyro.plate("prompts", size, dim=-1)


def _some_of_four(size):
    return pyro.plate("prompts", 4, subsample_size=size, dim=-1)


def _program(distribution, scale, plate, factor):
    """A program whose site `response` is scaled, in a plate of the kind."""

    def run(prompts):
        with plate(len(prompts)):
            with poutine.scale(scale=scale):
                response = pyro.sample("response", distribution(prompts))
            if factor:
                pyro.factor("reward", reward(prompts, response))

    return run


@pytest.mark.parametrize("plate", [_all, _some_of_four])
@pytest.mark.parametrize(("of_prior", "of_guide"), [(0.25, 0.25), (0.25, 1.0), (1.0, 3.0)])
def test_scales_and_subsampling_are_taken_as_pyro_takes_them(of_prior, of_guide, plate):
    """The mean gradient over all pairs of draws equals Pyro's enumeration, scales included."""
    guide, prior = Table(1), Table(0).requires_grad_(False)
    model = _program(prior.distribution, of_prior, plate, factor=True)

    def gradient_of(objective, distribution):
        def program(prompts):
            pyro.module("guide", guide)
            _program(distribution, of_guide, plate, factor=False)(prompts)

        guide.zero_grad()
        listed = isinstance(objective, TraceEnum_ELBO)
        with pyro.get_param_store().scope():
            objective.loss_and_grads(
                model, config_enumerate(program, "parallel") if listed else program, ONE
            )
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for p in guide.parameters()
            ]
        )

    exact = gradient_of(TraceEnum_ELBO(max_plate_nesting=1), guide.distribution)
    assert exact.norm() > 0.1
    support = Enumeration(Target(), ONE).support
    prob = guide.distribution(ONE).log_prob(support).exp()[:, 0].detach()
    total = torch.zeros_like(exact)
    for pair in map(list, itertools.product(range(len(prob)), repeat=2)):
        drawn = partial(_Drawn.of, response=support[pair])
        total += prob[pair].prod() * gradient_of(
            LeaveOneOut_ELBO(2), lambda prompts, drawn=drawn: drawn(guide.distribution(prompts))
        )
    assert torch.allclose(total, exact, rtol=1e-9, atol=1e-12)


def test_reward_only_has_the_gradient_of_the_reward_alone(prior):
    """Mean over many draws for a guide away from the prior."""
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    truth = Enumeration(model, prior.encode(["the film was"]))
    guide = moved_guide(prior, 0.05)
    log_guide = log_guide_at(guide, truth.prompts, truth.support)
    (-(log_guide.exp() * truth.log_likelihood).sum()).backward()
    bias = guide.language_model.network.transformer.ln_f.bias
    exact, gradients, losses = bias.grad.clone(), [], []
    for _ in range(40):
        guide.zero_grad()
        with parameter_scope(guide):
            losses.append(RewardOnly(64).loss_and_grads(model, guide, truth.prompts))
        gradients.append(bias.grad.clone())
    mean = torch.stack(gradients).mean(0)
    error = torch.stack(gradients).std(0) / math.sqrt(len(gradients))
    assert ((mean - exact).abs() < 5 * error).all()
    assert (exact.abs() > 10 * error).any()
    loss, error = -truth.expected_log_likelihood(guide).item(), np.std(losses) / math.sqrt(40)
    assert abs(np.mean(losses) - loss) < 5 * error
