"""Every program shape is supported or refused by name, by every algorithm on `response`."""

import contextlib
import re
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate

from guides import Guide
from inference import (
    OBJECTIVES,
    SAMPLERS,
    Enumeration,
    FusedOptimizer,
    LeaveOneOut_ELBO,
    diagnose,
    match_moments,
    sample_prior,
    sequential_monte_carlo,
)
from inference.response_site import ResponseSiteError, ScaledSiteError
from inference.samplers import LikelihoodTwist
from inference.samplers.log_z_bounds import log_z_bounds
from model import ResponseDistribution
from tests.inference.conftest import quiet
from tests.inference.objectives.table import BETA, SPACE, TWO, Table, Target, gradient, reward
from tests.inference.objectives.uses import OURS


def prior_of(prompts):
    return Table(0).distribution(prompts)


def program(
    *,
    site=prior_of,
    name="response",
    plate=None,
    around=contextlib.nullcontext,
    factor=True,
    before=None,
    after=None,
):
    """Model like `Target` with one change; without the factor, a guide."""

    def run(prompts):
        if before is not None:
            before()
        outer = pyro.plate("prompts", len(prompts), dim=-1) if plate is None else plate(prompts)
        with around(), outer:
            response = pyro.sample(name, site(prompts))
            if after is not None:
                after(response)
            if factor:
                pyro.factor("reward", reward(prompts, response) / BETA)
        return response

    return run


def wrapped(handler):
    """Program inside a handler that may need a trace of the program."""
    return lambda **options: lambda prompts: handler(program(**options), prompts)(prompts)


def subsampled(prompts):
    return pyro.plate("prompts", 10 * len(prompts), subsample_size=len(prompts), dim=-1)


def alone(run, prompts):
    """Trace hidden from the handlers around."""
    with poutine.block():
        return poutine.trace(run).get_trace(prompts)


def observed(prompts):
    return {"response": torch.zeros(len(prompts), 2, dtype=torch.long)}


REFUSED = {
    "scaled program": (
        lambda **k: poutine.scale(program(**k), scale=0.25),
        ScaledSiteError,
        "scaled by 0.25",
    ),
    "scaled by prompt": (
        wrapped(lambda run, _: poutine.scale(run, scale=torch.tensor([1.0, 2.0]))),
        ScaledSiteError,
        "scaled by tensor",
    ),
    "masked": (
        wrapped(lambda run, _: poutine.mask(run, mask=torch.tensor([True, False]))),
        ScaledSiteError,
        "is masked",
    ),
    "masked away": (
        lambda **k: poutine.mask(program(**k), mask=False),
        ScaledSiteError,
        "is masked",
    ),
    "masked distribution": (
        partial(program, site=lambda prompts: prior_of(prompts).mask(torch.tensor([True, False]))),
        ScaledSiteError,
        "is masked",
    ),
    "subsampled": (partial(program, plate=subsampled), ScaledSiteError, "takes 2 of 20 at a time"),
    "conditioned": (
        wrapped(lambda run, prompts: poutine.condition(run, observed(prompts))),
        ResponseSiteError,
        "its value",
    ),
    "replayed": (
        wrapped(lambda run, prompts: poutine.replay(run, trace=alone(run, prompts))),
        ResponseSiteError,
        "its value from inside the program",
    ),
    "hidden": (
        lambda **k: poutine.block(program(**k), hide=["response"]),
        ValueError,
        "site 'response'",
    ),
    "scoped": (lambda **k: scope(program(**k), prefix="a"), ValueError, "a/response"),
    "named otherwise": (
        partial(program, name="answer"),
        ValueError,
        r"site 'response'.*got \['answer",
    ),
    "second latent": (
        partial(program, after=lambda _: pyro.sample("mood", dist.Bernoulli(0.5))),
        ValueError,
        r"'mood'",
    ),
    "auxiliary latent": (
        partial(
            program,
            after=lambda _: pyro.sample("mood", dist.Bernoulli(0.5), infer={"is_auxiliary": True}),
        ),
        ValueError,
        "'mood'",
    ),
    "outer plate": (
        partial(program, around=lambda: pyro.plate("replicas", 3, dim=-2)),
        ResponseSiteError,
        "at dim -2",
    ),
    "one joint response": (
        partial(
            program,
            site=lambda p: prior_of(p).to_event(1),
            plate=lambda _: contextlib.nullcontext(),
        ),
        ResponseSiteError,
        "event shape",
    ),
    "a number": (
        partial(program, site=lambda p: dist.Categorical(torch.ones(len(p), 3))),
        ValueError,
        "event shape",
    ),
}
ONLY_GUIDES = {
    "factor": (
        lambda **_: program(
            factor=False, after=lambda response: pyro.factor("extra", response[..., 0].double())
        ),
        ValueError,
        "'extra'",
    ),
    "nothing": (lambda **_: lambda prompts: None, ValueError, "site 'response'"),
    "twice": (
        lambda **_: program(factor=False, after=lambda _: pyro.sample("response", prior_of(TWO))),
        RuntimeError,
        "Multiple sample sites named 'response'",
    ),
}
ONLY_MODELS = {
    "unconditioned": (lambda **k: poutine.uncondition(program(**k)), ValueError, "'reward'"),
    "annotators": (
        lambda **_: program(
            after=lambda _: pyro.factor("many", torch.zeros(5, 2)), around=contextlib.nullcontext
        ),
        ValueError,
        "factor 'many' has shape",
    ),
    "factor in an outer plate": (
        lambda **_: program(after=_in_outer_plate),
        ValueError,
        "site 'many' is inside the plate 'annotators' at dim -2",
    ),
}


def _in_outer_plate(response):
    with pyro.plate("annotators", 1, dim=-2):
        pyro.factor("many", torch.zeros(len(TWO)))


def feature(prompts, response):
    return (response[..., 0] == 1).double()


def uses_of_model(model):
    """The use that every algorithm makes of a model, by name."""
    truth, guide = Enumeration(Target(), TWO), Table(1)
    uses = {f"objective {name}": partial(svi_step, model, guide, name) for name in OURS}
    uses |= {
        f"sampler {name}": partial(SAMPLERS[name], model, TWO, num_samples=256)
        for name in [n for n, entry in SAMPLERS.items() if not entry.needs_bound]
    }
    uses |= {
        f"sampler {name}, guided": partial(SAMPLERS[name], model, TWO, guide=guide, num_samples=256)
        for name in SAMPLERS
    }
    rejection = partial(SAMPLERS["rejection"].sample, model, TWO, num_samples=4096, log_bound=7.0)
    uses |= {
        "sampler rejection": rejection,
        "sampler rejection, guided": partial(rejection, guide=guide),
    }
    return uses | {
        "enumeration": partial(Enumeration, model, TWO),
        "diagnostics": partial(diagnose, model, guide, TWO, num_samples=8, num_prior_draws=8),
        "prior draws": partial(sample_prior, model, TWO, 8, independent=True),
        "moments": partial(match_moments, model, TWO, {"f": feature}, {"f": 0.4}),
        "bounds": partial(log_z_bounds, model, TWO, truth.support[:2], num_samples=4),
    }


def uses_of_guide(guide):
    model, truth = Target(), Enumeration(Target(), TWO)
    uses = {f"objective {name}": partial(svi_step, model, guide, name) for name in OURS}
    rejection = {"rejection": partial(SAMPLERS["rejection"].sample, log_bound=7.0)}
    for name in [n for n, entry in SAMPLERS.items() if not entry.lists_all]:
        sample = rejection.get(name, SAMPLERS[name])
        uses[f"sampler {name}"] = partial(sample, model, TWO, guide=guide, num_samples=256)
    return uses | {
        "enumeration": partial(truth.elbo, guide),
        "diagnostics": partial(diagnose, model, guide, TWO, num_samples=8, num_prior_draws=8),
        "bounds": partial(log_z_bounds, model, TWO, truth.support[:2], guide=guide, num_samples=4),
    }


def svi_step(model, guide, name):
    with pyro.get_param_store().scope():
        SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), OBJECTIVES[name](num_particles=4)).step(TWO)


def assert_all_refuse(uses, error, match):
    refusals = {}
    for name, use in uses.items():
        try:
            use()
        except error as refusal:
            refusals[name] = str(refusal)
    assert refusals.keys() == uses.keys()
    assert {
        name: message for name, message in refusals.items() if not re.search(match, message)
    } == {}


@pytest.mark.parametrize("shape", REFUSED | ONLY_MODELS)
def test_model_is_refused_by_name(shape):
    make, error, match = (REFUSED | ONLY_MODELS)[shape]
    assert_all_refuse(uses_of_model(make()), error, match)


@pytest.mark.parametrize("shape", REFUSED | ONLY_GUIDES)
def test_guide_is_refused_by_name(shape):
    make, error, match = (REFUSED | ONLY_GUIDES)[shape]
    assert_all_refuse(uses_of_guide(make(factor=False)), error, match)


@pytest.mark.filterwarnings("ignore:Found")
@pytest.mark.parametrize("shape", ["conditioned", "hidden", "named otherwise"])
def test_leave_one_out_refuses_a_guide_whose_site_the_model_lacks(shape):
    model = REFUSED[shape][0]()
    with (
        pyro.get_param_store().scope(),
        pytest.raises(ResponseSiteError, match="draws 'response', which is no latent site"),
    ):
        LeaveOneOut_ELBO(4).loss_and_grads(model, Table(1), TWO)


def scaled_factor():
    """Half of each of two equal factors."""

    def after(response):
        with poutine.scale(scale=0.5):
            pyro.factor("half", reward(TWO, response) / BETA)
            pyro.factor("other half", reward(TWO, response) / BETA)

    return program(factor=False, after=after)


def masked_factor():
    def after(response):
        with poutine.mask(mask=torch.tensor([False, True])):
            pyro.factor("second", reward(TWO, response) / BETA)
        with poutine.mask(mask=torch.tensor([True, False])):
            pyro.factor("first", reward(TWO, response) / BETA)

    return program(factor=False, after=after)


def in_markov():
    return lambda prompts: [program()(prompts) for _ in pyro.markov(range(1))].pop()


RIGHT = {
    "plain": program,
    "without a plate": partial(program, plate=lambda _: contextlib.nullcontext()),
    "markov": in_markov,
    "deterministic": partial(program, after=lambda x: pyro.deterministic("first", x[..., 0])),
    "scale 1": lambda: poutine.scale(program(), scale=1.0),
    "mask of all": lambda: poutine.mask(program(), mask=torch.tensor([True, True])),
    "to enumerate": lambda: config_enumerate(program()),
    "lift": lambda: poutine.lift(program(), prior=dist.Normal(0.0, 1.0)),
    "substitute": lambda: poutine.substitute(program(), data={"response": torch.zeros(2, 2)}),
    "all of a plate": partial(
        program, plate=lambda p: pyro.plate("prompts", len(p), subsample_size=len(p), dim=-1)
    ),
    "scaled factors": scaled_factor,
    "masked factors": masked_factor,
}


@pytest.mark.filterwarnings("ignore:pyro.module data")
@pytest.mark.parametrize("shape", RIGHT)
def test_supported_model_has_the_exact_posterior(shape):
    model, expected = RIGHT[shape](), Enumeration(Target(), TWO)
    truth = Enumeration(model, TWO)
    assert torch.allclose(truth.log_joint, expected.log_joint, rtol=1e-12)
    response = Table(1).distribution(TWO).sample((4,))
    for name in ("proximal", "reward-to-go", "wake-phi"):
        grads = []
        for target in (model, Target()):
            pyro.set_rng_seed(3)
            grads.append(
                gradient(OBJECTIVES[name](num_particles=4), target, Table(1), TWO, response)[1]
            )
        assert torch.allclose(*grads, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("shape", ["deterministic", "scaled factors"])
def test_every_algorithm_takes_supported_programs(shape):
    for use in uses_of_model(RIGHT[shape]()).values():
        use()


def test_an_intervention_leaves_the_prior():
    """Under `do` the factor is constant over responses: the posterior is the prior."""
    truth = Enumeration(
        poutine.do(program(), data={"response": torch.ones(2, 2, dtype=torch.long)}), TWO
    )
    assert torch.allclose(truth.log_posterior, truth.log_prior)
    assert torch.allclose(truth.log_z, reward(TWO, torch.ones(2, 2)) / BETA)


def annealed(distribution, scale, factor):
    def run(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            with poutine.scale(scale=scale):
                response = pyro.sample("response", distribution(prompts))
            if factor:
                pyro.factor("reward", reward(prompts, response) / BETA)

    return run


def test_kl_annealing_is_a_smaller_beta():
    """Advice of the error: scale s on model and guide is s times the ELBO at beta times s."""
    scale, guide = 0.25, Table(1)
    elbo = -TraceEnum_ELBO(max_plate_nesting=1).loss(
        annealed(prior_of, scale, factor=True),
        config_enumerate(annealed(guide.distribution, scale, factor=False), "parallel"),
        TWO,
    )
    colder = Target(lambda prompts, response: reward(prompts, response) / scale)
    assert elbo == pytest.approx(scale * Enumeration(colder, TWO).elbo(guide).sum().item())
    assert elbo != pytest.approx(Enumeration(Target(), TWO).elbo(guide).sum().item(), rel=0.1)


class Elsewhere(Guide):
    """A guide with other responses than the model's."""

    def __init__(self, **changes):
        super().__init__()
        self.table = Table(1)
        self.space = replace(SPACE, **changes)

    def distribution(self, prompts):
        return ResponseDistribution(self.table, prompts, self.space)


OTHERS = {
    "end_ids": {"end_ids": torch.tensor([1])},
    "pad_id": {"pad_id": 2},
    "max_new_tokens": {"max_new_tokens": 1},
    "vocab_size": {"vocab_size": 4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_guide_of_other_responses_is_refused(name):
    guide = Elsewhere(**OTHERS[name])
    assert_all_refuse(uses_of_guide(guide), ValueError, f"{name}|response has shape")
    for objective in (
        LeaveOneOut_ELBO(4),
        OBJECTIVES["trace"](num_particles=4),
        OBJECTIVES["wake-phi"](num_particles=4),
    ):
        match = f"different responses, with {name}|response has shape"
        with pytest.raises(ResponseSiteError, match=match):
            quiet(Target(), guide, TWO, 1, objective=objective, optimizer=FusedOptimizer())


@pytest.mark.parametrize("name", sorted(OTHERS.keys() - {"max_new_tokens"}))
def test_a_twist_of_other_responses_is_refused(name):
    other = program(site=Elsewhere(**OTHERS[name]).distribution)
    with pytest.raises(ResponseSiteError, match=f"different responses, with {name}"):
        sequential_monte_carlo(Target(), TWO, num_samples=8, twist=LikelihoodTwist(other))


@pytest.mark.parametrize("name", OURS)
def test_prompts_go_by_keyword_and_nothing_else_does(name):
    guide = Table(1)
    with pyro.get_param_store().scope():
        svi = SVI(Target(), guide, pyro.optim.Adam({"lr": 0.01}), OBJECTIVES[name](num_particles=4))
        losses = []
        for arguments in (((TWO,), {}), ((), {"prompts": TWO})):
            pyro.set_rng_seed(0)
            losses.append(svi.evaluate_loss(*arguments[0], **arguments[1]))
        assert losses[0] == losses[1]
        match = r"got 2 arguments and the keywords \[\] for model and guide, expected one"
        with pytest.raises(TypeError, match=match):
            svi.step(TWO, 3)
        with pytest.raises(TypeError, match="got 0 arguments"):
            svi.step()


def test_likelihood_in_the_metrics_is_scaled():
    """`fit` with an objective of Pyro's records the factors as the model scales them."""

    def model(prompts):
        with poutine.scale(scale=0.5):
            pyro.factor("reward", torch.full((2,), 3.0))
        with pyro.plate("prompts", len(prompts)):
            pyro.sample("response", prior_of(prompts))

    result = quiet(model, Table(1), TWO, 1, optimizer=FusedOptimizer())
    assert result.metrics[0]["log_likelihood"] == pytest.approx(1.5)
