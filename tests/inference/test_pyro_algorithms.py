"""Rows of the table of Pyro's algorithms in inference/README.md, each run and checked."""

import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVGD,
    SVI,
    EmpiricalMarginal,
    Importance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    Predictive,
    RBFSteinKernel,
    RenyiELBO,
    ReweightedWakeSleep,
    SMCFilter,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
    infer_discrete,
)
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiscreteParallel,
    AutoGuideList,
    AutoNormal,
    AutoStructured,
)
from pyro.infer.importance import vectorized_importance_weights
from pyro.infer.inspect import get_dependencies
from torch.testing import assert_close

from guides import FineTuned, Tabular
from guides.guide import GuideRegistrationError
from inference import Enumeration
from inference.samplers.metropolis_hastings import ResponseKernel
from model import AlignmentModel, ResponseIndex, TextReward
from tests.model.tiny import tiny

README = Path(__file__).parents[2] / "inference" / "README.md"
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-6}


class World:
    """21 responses to each of two prompts, a guide away from the posterior, and the truth."""

    def __init__(self, dtype):
        self.prior, self.exact = (
            tiny(dtype=dtype, max_new_tokens=2),
            {"rtol": 0, "atol": TOLERANCE[dtype]},
        )
        self.prompts = self.prior.encode(["a b c a", "b"])
        self.model = AlignmentModel(self.prior, TextReward(self.reward, self.prior), beta=1.0)
        self.guide = Tabular(self.prior, self.prompts)
        self.guide.jitter(0.3, torch.Generator().manual_seed(1))
        self.truth = Enumeration(self.model, self.prompts)
        self.enumerated = config_enumerate(self.model)

    @staticmethod
    def reward(texts):
        return [0.7 * text.count("a") - 0.4 * text.count("b") for text in texts]

    @staticmethod
    def empty(prompts):
        """A guide that leaves the site to the model."""

    def near(self, estimates, exact):
        """Check the mean of independent estimates within five standard errors."""
        estimates = torch.as_tensor(estimates, dtype=torch.float64)
        assert (estimates.mean() - exact).abs() < 5 * estimates.std() / len(estimates) ** 0.5

    def losses(self, objective, num=20, prompts=None):
        prompts = self.prompts if prompts is None else prompts
        losses = [objective.loss(self.model, self.guide, prompts) for _ in range(num)]
        return [loss[0] if isinstance(loss, tuple) else loss for loss in losses]

    def step(self, objective, guide=None, prompts=None):
        guide = self.guide if guide is None else guide
        before = self.guide.table.detach().clone()
        SVI(self.model, guide, pyro.optim.Adam({"lr": 0.01}), objective).step(
            self.prompts if prompts is None else prompts
        )
        assert not torch.equal(before, self.guide.table)


@pytest.fixture(params=TOLERANCE, ids=str)
def world(request):
    """Networks in float32 too: Pyro multiplies log p0 by log likelihoods, which are float64."""
    return World(request.param)


def estimates_the_elbo(make, world):
    exact = -world.truth.elbo(world.guide).sum()
    world.near(
        world.losses(make(num_particles=64, vectorize_particles=True, max_plate_nesting=1)), exact
    )
    world.near(world.losses(make(num_particles=2), num=60), exact)
    world.step(make(num_particles=4, vectorize_particles=True, max_plate_nesting=1))


def enumerates_the_guide(world):
    for how in ("parallel", "sequential"):
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(
            world.model, config_enumerate(world.guide, how), world.prompts
        )
        assert_close(-loss, world.truth.elbo(world.guide).sum().item(), **world.exact)


def enumerates_the_model(world):
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(
        config_enumerate(world.model), world.empty, world.prompts
    )
    assert_close(-loss, world.truth.log_z.sum().item(), **world.exact)


def computes_marginals(world):
    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(
        world.enumerated, world.empty, world.prompts
    )
    assert_close(
        marginals["response"].logits.log_softmax(-1).T, world.truth.log_posterior, **world.exact
    )


def samples_the_posterior(world):
    many = pyro.plate("draws", 1000, dim=-2)(world.enumerated)
    drawn = TraceEnum_ELBO(max_plate_nesting=2).sample_posterior(many, world.empty, world.prompts)
    shares_are_of(drawn, world.truth)


def infers_discrete_sites(world):
    many = pyro.plate("draws", 1000, dim=-2)(world.enumerated)
    shares_are_of(infer_discrete(many, first_available_dim=-3)(world.prompts), world.truth)


def shares_are_of(drawn, truth):
    share = (drawn[:, None] == truth.support).all(-1).double().mean(0)
    probability = truth.log_posterior.exp()
    assert (
        (share - probability).abs()
        < 5 * (probability * (1 - probability) / len(drawn)).sqrt() + 3 / len(drawn)
    ).all()


def fits_a_table(world):
    model = ResponseIndex()(world.model)
    guide = AutoDiscreteParallel(model)
    svi = SVI(
        model,
        config_enumerate(guide),
        pyro.optim.Adam({"lr": 0.1}),
        TraceEnum_ELBO(max_plate_nesting=1),
    )
    for _ in range(60):
        svi.step(world.prompts)
    gap = svi.evaluate_loss(world.prompts) + world.truth.log_z.sum().item()
    assert 0 <= gap < 0.1
    with pytest.raises(NotImplementedError, match="ResponseDistribution is not supported"):
        AutoDiscreteParallel(world.model)(world.prompts)


def bounds_log_z_by_many_draws(world):
    guide = config_enumerate(world.guide, "parallel", num_samples=2000)
    bound = -TraceTMC_ELBO(max_plate_nesting=1).loss(world.model, guide, world.prompts)
    assert bound == pytest.approx(world.truth.log_z.sum().item(), abs=0.5)
    assert bound > world.truth.elbo(world.guide).sum() + 0.1


def bounds_log_z(make, world):
    """Between the ELBO and log Z in the mean; trains, one prompt at a time."""
    first = world.prompts[[0]]
    bound = -torch.tensor(
        world.losses(
            make(num_particles=64, vectorize_particles=True, max_plate_nesting=1), 20, first
        )
    ).mean()
    assert world.truth.elbo(world.guide)[0] < bound < world.truth.log_z[0] + 0.3
    world.step(make(num_particles=64, vectorize_particles=True, max_plate_nesting=1), prompts=first)


def weighs_draws(world):
    posterior = Importance(world.model, world.guide, num_samples=200).run(world.prompts)
    assert EmpiricalMarginal(posterior, "response").sample().shape == (2, 2)
    weights = torch.stack(posterior.log_weights).exp()
    world.near(weights, world.truth.log_z.sum().exp())


def weighs_draws_at_once(world):
    log_weights, *_ = vectorized_importance_weights(
        world.model,
        world.guide,
        world.prompts,
        num_samples=2000,
        max_plate_nesting=1,
        normalized=False,
    )
    world.near(log_weights.exp(), world.truth.log_z.sum().exp())


def predicts(world):
    for options in ({"guide": world.guide}, {}):
        for parallel in (False, True):
            predict = Predictive(
                world.model, num_samples=5, return_sites=["response"], parallel=parallel, **options
            )
            assert predict(world.prompts)["response"].shape == (5, 2, 2)


def runs_chains(world):
    mcmc = MCMC(
        ResponseKernel(world.model, num_chains=8),
        num_samples=5,
        warmup_steps=1,
        disable_progbar=True,
    )
    mcmc.run(world.prompts)
    assert mcmc.get_samples()["response"].shape == (5, 8, 2, 2)


def saves_parameters(world):
    trained, guide = FineTuned(world.prior), FineTuned(world.prior)  # first and last layer are one
    SVI(world.model, trained, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(world.prompts)
    store = pyro.get_param_store()
    with TemporaryDirectory() as folder:
        store.save(f"{folder}/store")
        store.load(f"{folder}/store")
    with pytest.raises(GuideRegistrationError, match="load_state_dict"):
        guide(world.prompts)
    tensors = {name.split("$$$")[1]: value for name, value in store.items()}
    guide.load_state_dict(tensors, strict=False)
    store.clear()
    guide(world.prompts)
    divergences = [world.truth.kl_guide_posterior(each) for each in (guide, trained)]
    assert_close(*divergences, **world.exact)


def depends(world):
    dependencies = get_dependencies(world.model, (world.prompts,))
    assert dependencies["prior_dependencies"]["reward"].keys() == {"reward", "response"}
    assert dependencies["posterior_dependencies"]["response"].keys() == {"reward", "response"}


def draws_the_program(world):
    pytest.importorskip("graphviz", reason="the extra `render` is not installed")
    source = pyro.render_model(world.model, model_args=(world.prompts,)).source
    assert "response -> reward" in source
    assert "label=prompts" in source


def refuses(error, match, use, world):
    with pytest.raises(error, match=match):
        use(world)


def cannot_trace(make, world):
    guide = config_enumerate(world.guide) if make is JitTraceEnum_ELBO else world.guide
    with pytest.raises(RuntimeError, match="Tracer cannot infer type"):
        SVI(world.model, guide, pyro.optim.Adam({"lr": 0.1}), make()).step(world.prompts)
    with pytest.raises(NotImplementedError, match="drawn token by token until it ends"):
        SVI(
            partial(world.model, world.prompts),
            partial(world.guide, world.prompts),
            pyro.optim.Adam({}),
            make(),
        ).step()


def finds_nothing_to_move(kernel, world):
    mcmc = MCMC(
        kernel(world.model, max_plate_nesting=1),
        num_samples=2,
        warmup_steps=1,
        disable_progbar=True,
    )
    mcmc.run(world.prompts)
    assert mcmc.get_samples() == {}


def step_of_svgd(world):
    SVGD(
        world.model, RBFSteinKernel(), pyro.optim.Adam({}), num_particles=3, max_plate_nesting=1
    ).step(world.prompts)


def joins_guides(world):
    guide = AutoGuideList(world.model)
    guide.append(world.guide)
    Trace_ELBO().loss(world.model, guide, world.prompts)


def lifts(world):
    poutine.lift(world.guide, Normal(0.0, 1.0))(world.prompts)


def filters(world):
    SMCFilter(world.model, world.guide, num_particles=4, max_plate_nesting=1).init(world.prompts)


def autoguide(make):
    return partial(
        refuses,
        ValueError,
        "Continuous inference cannot handle discrete sample site",
        lambda w: make(w.model)(w.prompts),
    )


def reparameterised(make):
    def step(world):
        elbo = make(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        return world.step(elbo)

    return partial(refuses, NotImplementedError, "fully reparameterized", step)


wake_phi = partial(ReweightedWakeSleep, insomnia=1.0, model_has_params=False)
WORKS = {
    "Trace_ELBO": partial(estimates_the_elbo, Trace_ELBO),
    "TraceGraph_ELBO": partial(estimates_the_elbo, TraceGraph_ELBO),
    "TraceEnum_ELBO, guide enumerated": enumerates_the_guide,
    "TraceEnum_ELBO, model enumerated": enumerates_the_model,
    "TraceEnum_ELBO.compute_marginals": computes_marginals,
    "TraceEnum_ELBO.sample_posterior": samples_the_posterior,
    "infer_discrete": infers_discrete_sites,
    "TraceTMC_ELBO": bounds_log_z_by_many_draws,
    "RenyiELBO": partial(bounds_log_z, partial(RenyiELBO, alpha=0.5)),
    "ReweightedWakeSleep": partial(bounds_log_z, wake_phi),
    "Importance": weighs_draws,
    "vectorized_importance_weights": weighs_draws_at_once,
    "Predictive": predicts,
    "get_param_store": saves_parameters,
    "get_dependencies": depends,
    "render_model": draws_the_program,
}
BY_INDEX = {"AutoDiscreteParallel": fits_a_table}
BY_KERNEL = {"MCMC": runs_chains}
FAILS = {
    "JitTrace_ELBO": partial(cannot_trace, JitTrace_ELBO),
    "JitTraceGraph_ELBO": partial(cannot_trace, JitTraceGraph_ELBO),
    "JitTraceEnum_ELBO": partial(cannot_trace, JitTraceEnum_ELBO),
    "TraceMeanField_ELBO": reparameterised(TraceMeanField_ELBO),
    "TraceTailAdaptive_ELBO": reparameterised(TraceTailAdaptive_ELBO),
    "AutoNormal": autoguide(AutoNormal),
    "AutoDelta": autoguide(AutoDelta),
    "AutoStructured": autoguide(AutoStructured),
    "AutoGuideList": partial(refuses, RuntimeError, "sites named 'prompts'", joins_guides),
    "poutine.lift": partial(refuses, GuideRegistrationError, "holds no tensor, as under", lifts),
    "HMC": partial(finds_nothing_to_move, HMC),
    "NUTS": partial(finds_nothing_to_move, NUTS),
    "SVGD": partial(refuses, ValueError, "discrete sample site", step_of_svgd),
    "SMCFilter": partial(refuses, AttributeError, "init", filters),
}
CLAIMS = {"yes": WORKS, "by ResponseIndex": BY_INDEX, "by ResponseKernel": BY_KERNEL, "no": FAILS}
ROWS = {name: row for rows in CLAIMS.values() for name, row in rows.items()}


def table():
    """Name of every algorithm in the table, and the entry of the column `works`."""
    lines = README.read_text(encoding="utf-8").split("| Pyro | works |")[1].splitlines()[2:]
    for names, works in (line.split("|")[1:3] for line in lines if line.startswith("|")):
        words = names.replace("`", "").strip()
        several = re.fullmatch(r"(\w+, )+\w+", words)
        for name in words.split(", ") if several else [words]:
            yield name, works.replace("`", "").strip()


def test_table_and_tests_are_of_the_same_algorithms():
    assert dict(table()) == {name: works for works, rows in CLAIMS.items() for name in rows}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:TraceEnum_ELBO found no",
)
@pytest.mark.parametrize("name", ROWS)
def test_row(world, name):
    ROWS[name](world)
