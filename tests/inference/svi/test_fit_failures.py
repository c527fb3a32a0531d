"""Failed steps: the fit returns to the last good parameters, or saves and raises the error."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from guides import FineTuned, LoRA, Tabular
from inference import OBJECTIVES, FusedOptimizer, LeaveOneOut_ELBO, cosine, fit
from inference.svi.checkpoint.folder import CheckpointError, has_checkpoint
from inference.svi.checkpoint.state import FitState
from inference.svi.optimizer.checked import NonFiniteStartError
from model import AlignmentModel
from tests.inference.conftest import parameters_of, rows_of

LARGEST = torch.finfo(torch.float32).max


def quiet(model, guide, prompts, num_steps=6, **options):
    options = {"objective": LeaveOneOut_ELBO(4), "progress": False} | options
    return fit(model, guide, prompts, num_steps=num_steps, **options)


class Breaks(torch.optim.SGD):
    """Optimiser that writes one bad number into a parameter or a moment, at one step."""

    def __init__(self, params, lr=0.01, bad=math.nan, where="parameter", at=4):
        super().__init__(params, lr=lr, momentum=0.9)
        self.bad, self.where, self.at, self.count = bad, where, at, 0

    def step(self, closure=None):
        super().step(closure)
        self.count += 1
        if self.count == self.at:
            parameter = self.param_groups[0]["params"][0]
            moment = self.state[parameter]["momentum_buffer"]
            broken = parameter.data if self.where == "parameter" else moment
            broken.view(-1)[0] = self.bad


def breaking(bad=math.nan, where="parameter", at=4):
    return FusedOptimizer(Breaks, {"lr": 0.01, "bad": bad, "where": where, "at": at})


@pytest.fixture(scope="module")
def unbroken(model, small_prior, prompts):
    """Parameters of a fit without failure after each of five steps, by objective."""

    @functools.cache
    def parameters(objective):
        guide, steps = FineTuned(small_prior), []
        options = {"objective": OBJECTIVES[objective](num_particles=4)}
        options |= {"on_step": lambda metrics: steps.append(parameters_of(guide))}
        quiet(model, guide, prompts, 5, optimizer=breaking(at=100), **options)
        return steps

    return parameters


@pytest.mark.parametrize(
    ("objective", "bad", "where"),
    [
        *itertools.product(["leave-one-out"], [math.nan, math.inf], ["parameter", "moment"]),
        *((name, math.nan, "moment") for name in ("trace", "forward-kl", "proximal")),
        ("reward-to-go-value", math.inf, "parameter"),
    ],
)
def test_bad_step_is_undone_and_the_checkpoint_is_good(
    objective, bad, where, model, small_prior, prompts, unbroken, tmp_path
):
    """Early stop at step 3; parameters, checkpoint and resume equal a fit without failure."""
    guide, resumed = FineTuned(small_prior), FineTuned(small_prior)

    def run(guide, num_steps, **options):
        options |= {"objective": OBJECTIVES[objective](num_particles=4)}
        options |= {"optimizer": breaking(bad, where), "checkpoint_folder": tmp_path}
        options |= {"keep_best": False}  # of six steps, the ELBO can fall by more than noise
        return quiet(model, guide, prompts, num_steps, **options)

    with pytest.warns(UserWarning, match="fit stopped early at step 3"):
        result = run(guide, 6)
    assert "step 3 left a NaN or an infinity in" in result.stopped_early
    assert [record["step"] for record in result.metrics] == [1, 2, 3]
    assert torch.equal(parameters_of(guide), unbroken(objective)[2])
    run(resumed, 5, resume=True)
    assert torch.equal(parameters_of(resumed), unbroken(objective)[4])


@pytest.mark.parametrize(
    ("constructor", "options"),
    [
        (torch.optim.Adam, {"lr": 1e39}),
        (torch.optim.SGD, {"lr": LARGEST, "momentum": 0.9}),
        (torch.optim.RMSprop, {"lr": 1e39}),
    ],
)
def test_rate_that_overflows_leaves_the_start(constructor, options, model, small_prior, prompts):
    """In float32, where the product is infinite."""
    guide = FineTuned(small_prior, dtype="float32")
    start = parameters_of(guide)
    with pytest.warns(UserWarning, match="stopped early at step 0") as caught:
        result = quiet(model, guide, prompts, optimizer=FusedOptimizer(constructor, options))
    assert caught[0].filename == __file__  # the caller of `fit`
    assert result.stopped_early is not None
    assert torch.equal(parameters_of(guide), start)


@pytest.mark.parametrize("objective", ["leave-one-out", "trace", "trajectory-balance"])
@pytest.mark.parametrize(
    "optimizer", [lambda options: FusedOptimizer(options=options), pyro.optim.Adam]
)
def test_finite_parameters_that_give_no_numbers_are_undone_too(
    optimizer, objective, model, small_prior, prompts, tmp_path
):
    """A huge rate gives finite parameters and an overflow in the next step: both are undone."""
    guide = FineTuned(small_prior, dtype="float32")
    start = parameters_of(guide)
    options = {"objective": OBJECTIVES[objective](num_particles=4), "checkpoint_folder": tmp_path}
    match = "stopped early at step 0: the guide has no numbers at the parameters of step 1"
    with pytest.warns(UserWarning, match=match):
        result = quiet(model, guide, prompts, optimizer=optimizer({"lr": 1e30}), **options)
    assert result.state.step == result.state.optimizer.step_count == 0
    assert result.metrics == []
    assert torch.equal(parameters_of(guide), start)
    assert not has_checkpoint(tmp_path)


def test_half_precision_stops_with_the_last_good_parameters(model, small_prior, prompts):
    """Adam's eps is 0 in float16, and 0/0 is NaN, not a guide equal to the posterior."""
    guide = FineTuned(small_prior, dtype="float16")
    start = parameters_of(guide)
    with pytest.warns(UserWarning, match="train them in float32"):
        result = quiet(model, guide, prompts, optimizer=FusedOptimizer(options={"fused": False}))
    assert result.stopped_early is not None
    assert torch.equal(parameters_of(guide), start)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -1.0])
def test_bad_factor_of_a_schedule_stops_before_the_step(factor, model, small_prior, prompts):
    guide, alone = FineTuned(small_prior), FineTuned(small_prior)
    optimizer = FusedOptimizer(schedule=lambda step: factor if step == 2 else 1.0)
    with pytest.warns(UserWarning, match="the schedule's factor for the learning rate is"):
        result = quiet(model, guide, prompts, optimizer=optimizer)
    assert result.state.step == 2
    quiet(model, alone, prompts, 2, optimizer=FusedOptimizer())
    assert torch.equal(parameters_of(guide), parameters_of(alone))


def scaled(size, constraint, start):
    """A guide of independent tokens whose parameter is constrained."""

    def logits():
        return pyro.param("scale", torch.full((2, size), start), constraint=constraint).log()

    return rows_of(size, logits)


@pytest.mark.parametrize("objective", [LeaveOneOut_ELBO, Trace_ELBO])
@pytest.mark.parametrize(
    "make",
    [lambda: FusedOptimizer(torch.optim.SGD, {"lr": 1e4}), lambda: pyro.optim.SGD({"lr": 1e4})],
)
def test_constrained_value_that_overflows_is_undone(make, objective, small_prior, prompts):
    """exp of a finite number is infinite: unconstrained, nothing is wrong."""
    size, elbo = small_prior.vocab_size, objective(num_particles=8, max_plate_nesting=1)
    guide = scaled(size, dist.constraints.positive, 1.0)
    with pytest.warns(UserWarning, match="in constrained parameter 'scale'"):
        result = quiet(rows_of(size), guide, prompts, objective=elbo, optimizer=make())
    assert torch.equal(result.parameters["params"]["scale"], torch.zeros(2, size))
    assert result.state.step == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_start_is_refused_by_name(bad, model, small_prior, prompts):
    guide = Tabular(small_prior, prompts)
    with torch.no_grad():
        guide.table[0, 0, 3] = bad
    match = r"'table' has a NaN or an infinity before the first step \(1 of 1 do\)"
    with pytest.raises(NonFiniteStartError, match=match):
        quiet(model, guide, prompts)
    size = small_prior.vocab_size
    plain = scaled(size, dist.constraints.real, bad)
    with pytest.raises(NonFiniteStartError, match="'scale' has a NaN"):
        quiet(rows_of(size), plain, prompts)


@pytest.mark.parametrize("at", [1, 3])
def test_a_site_without_numbers_is_named_at_every_step(at, small_prior, prompts):
    """By Pyro's warnings, which wait for a GPU at each site of the first step alone."""
    runs = []

    def model(prompts):
        runs.append(None)
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", small_prior(prompts))
            value = (response == 7).double().sum(-1)
            pyro.factor("mine", value + math.inf if len(runs) == at else value)

    with pytest.warns(UserWarning, match=r"Encountered \+inf: log_prob_sum at site 'mine'"):
        result = quiet(model, guide := FineTuned(small_prior), prompts)
    assert result.stopped_early
    assert len(result.metrics) == at - 1
    assert all(parameter.grad is None for parameter in guide.parameters())  # of the failed step


class UserError(Exception):
    """An error of a user's own code."""


class Unreliable:
    """Reward that raises a given error; the given error is no part of the reward."""

    def __init__(self):
        self._errors = []

    def __call__(self, prompts, response):
        if self._errors:
            raise self._errors[0]("no")
        return (response == 7).double().sum(-1)


def failing_after_a_step(error, prior):
    """Model, and the callback of a fit that gives an error to the reward."""
    reward = Unreliable()
    return {
        "model": AlignmentModel(prior, reward, beta=0.3),
        "on_step": lambda metrics: reward._errors.append(error),
    }


def nine_steps(model, guide, prompts, objective, **options):
    """Fit with a prompt in each step, and no checkpoint before the end."""
    options |= {"prompts_per_step": 1, "checkpoint_every": 100}
    options |= {"objective": OBJECTIVES[objective](num_particles=4)}
    return quiet(model, guide, prompts, 9, optimizer=FusedOptimizer(schedule=cosine(9)), **options)


@pytest.fixture(scope="module")
def reliable(small_prior, prompts):
    """Parameters of `nine_steps` without failure, by objective."""

    @functools.cache
    def parameters(objective):
        guide = FineTuned(small_prior)
        model = AlignmentModel(small_prior, Unreliable(), beta=0.3)
        nine_steps(model, guide, prompts, objective)
        return parameters_of(guide)

    return parameters


@pytest.mark.parametrize(
    ("objective", "error"),
    [
        ("trace", UserError),
        ("trace", KeyboardInterrupt),
        ("trajectory-balance", FloatingPointError),
        ("proximal", ValueError),
    ],
)
def test_error_in_the_middle_loses_nothing(
    objective, error, small_prior, prompts, reliable, tmp_path
):
    """The error is raised with a note on the resume; the resumed fit equals one without failure."""
    guide, resumed = FineTuned(small_prior), FineTuned(small_prior)
    run = functools.partial(
        nine_steps, prompts=prompts, objective=objective, checkpoint_folder=tmp_path
    )
    with pytest.raises(error) as raised:
        run(guide=guide, **failing_after_a_step(error, small_prior))
    done = raised.value.fit.state.step
    assert [record["step"] for record in raised.value.fit.metrics] == list(range(1, done + 1))
    assert done >= 1
    note = f"The fit had done {done} steps; the last is in {tmp_path}: go on with resume=True."
    assert note in raised.value.__notes__
    run(AlignmentModel(small_prior, Unreliable(), beta=0.3), resumed, resume=True)
    assert torch.equal(parameters_of(resumed), reliable(objective))


def test_callback_that_raises_keeps_the_step(model, small_prior, prompts, tmp_path):
    def look(metrics):
        if metrics["step"] == 2:
            raise UserError("enough")

    with pytest.raises(UserError) as raised:
        quiet(model, FineTuned(small_prior), prompts, on_step=look, checkpoint_folder=tmp_path)
    assert raised.value.fit.state.step == 2
    result = quiet(model, FineTuned(small_prior), prompts, checkpoint_folder=tmp_path, resume=True)
    assert [record["step"] for record in result.metrics] == [3, 4, 5, 6]


def test_disk_that_is_full_does_not_hide_the_error(small_prior, prompts, tmp_path, monkeypatch):
    def full(state, folder):
        raise CheckpointError("no space left")

    monkeypatch.setattr(FitState, "save", full)
    bad = failing_after_a_step(UserError, small_prior)
    with pytest.raises(UserError) as raised:
        quiet(guide=FineTuned(small_prior), prompts=prompts, checkpoint_folder=tmp_path, **bad)
    note = "The fit had done 1 steps; the last could not be saved: no space left"
    assert raised.value.__notes__[-1] == note
    assert len(raised.value.fit.metrics) == 1


def test_memory_of_the_backup_is_one_more_copy(model, small_prior, prompts):
    """The copy holds trained parameters and two moments, not the frozen prior of an adapter."""
    guide = LoRA(small_prior, rank=2)
    optimizer = FusedOptimizer()
    quiet(model, guide, prompts, 2, optimizer=optimizer)
    backup = optimizer._backup

    def moments():
        values = [value for state in backup._moments.values() for value in state.values()]
        return [value for value in values if value.dim()]

    assert sum(map(torch.numel, backup.parameters.values())) == guide.num_trained_parameters()
    assert sum(map(torch.numel, moments())) == 2 * guide.num_trained_parameters()
    before = [value.data_ptr() for value in moments()]
    with pyro.get_param_store().scope():
        guide(prompts)
        for parameter in guide.trained().values():
            parameter.grad = torch.ones_like(parameter)
        optimizer([])
    assert [value.data_ptr() for value in moments()] == before
