"""Optimisers of torch and Pyro: run in a fit and resume bit for bit, or refused by name."""

import math
import shutil
from functools import partial

import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import SVI
from pyro.optim.clipped_adam import ClippedAdam

from guides import FineTuned, Tabular
from inference import FusedOptimizer, LeaveOneOut_ELBO, fit
from inference.svi.optimizer.fused import constant
from tests.inference.conftest import parameters_of


def quiet(model, guide, prompts, num_steps=4, **options):
    options |= {"objective": LeaveOneOut_ELBO(4), "keep_best": False, "progress": False}
    return fit(model, guide, prompts, num_steps=num_steps, **options)


class OtherNames(torch.optim.Optimizer):
    """Unusual optimiser: no `lr`, plain numbers as counters, an option that changes."""

    def __init__(self, params, rate=0.01, drift=1.0):
        super().__init__(params, {"rate": rate, "drift": drift})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["drift"] *= 0.9
            for parameter in group["params"]:
                if parameter.grad is not None:
                    count = self.state[parameter].get("count", 0) + 1
                    self.state[parameter]["count"] = count
                    parameter.add_(parameter.grad, alpha=-group["rate"] * group["drift"] / count)


TORCH = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Adamax": {},
    "ASGD": {"t0": 2},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}
FUSED = {
    name: (getattr(torch.optim, name), {"lr": 0.01} | options) for name, options in TORCH.items()
}
FUSED |= {
    "foreach": (torch.optim.Adam, {"foreach": True}),
    "tensor rate": (torch.optim.Adam, {"lr": torch.tensor(0.01)}),
    "Pyro's ClippedAdam": (ClippedAdam, {"lrd": 0.9}),
    "other names": (OtherNames, {"rate": 0.02}),
    "function": (lambda params: torch.optim.SGD(params, lr=0.01), {}),
}
PYRO = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.01}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.9}),
    "AdagradRMSProp": lambda: pyro.optim.AdagradRMSProp({"eta": 0.1}),
    "DCTAdam": lambda: pyro.optim.DCTAdam({"lr": 0.01}),
    "NAdam": lambda: pyro.optim.NAdam({"lr": 0.01}),
    "SGD": lambda: pyro.optim.SGD({"lr": 0.01, "momentum": 0.9}, {"clip_norm": 0.1}),
    "by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.02 if "bias" in name else 0.01}),
}


def assert_resumes(make, model, new_guide, prompts, folder):
    """A fit that is resumed from its step 2 with a new optimiser is the same to the last bit."""
    whole, resumed = new_guide(), new_guide()
    start = parameters_of(whole)
    options = {"checkpoint_folder": folder, "checkpoint_every": 2}
    assert quiet(model, whole, prompts, optimizer=make(), **options).stopped_early is None
    shutil.rmtree(folder / "step-00000004")
    result = quiet(model, resumed, prompts, optimizer=make(), **options, resume=True)
    assert [metrics["step"] for metrics in result.metrics] == [3, 4]
    assert not torch.equal(parameters_of(whole), start)
    assert torch.equal(parameters_of(whole), parameters_of(resumed))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float64") for name in FUSED]
    + [(name, "bfloat16") for name in ("Adafactor", "Adam", "NAdam", "SGD", "other names")],
)
def test_torch_optimiser_resumes_bit_for_bit(name, dtype, model, small_prior, prompts, tmp_path):
    def make():
        constructor, options = FUSED[name]
        # less moves no weight in bfloat16
        options = options | ({"lr": 1.0} if name == "SGD" else {})
        return FusedOptimizer(constructor, options, clip_norm=1.0)

    assert_resumes(make, model, lambda: FineTuned(small_prior, dtype=dtype), prompts, tmp_path)


@pytest.mark.parametrize("name", PYRO)
def test_optimiser_of_pyro_resumes_bit_for_bit(name, model, small_prior, prompts, tmp_path):
    assert_resumes(PYRO[name], model, lambda: FineTuned(small_prior), prompts, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "constructor", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad]
)
@pytest.mark.parametrize("size", [1, 20, 33])
def test_every_number_of_a_tensor_is_stepped(size, constructor, dtype):
    """Equal gradients, equal steps: a fused kernel may omit the end of a tensor."""
    parameter = pyro.param("a", torch.ones(size, dtype=dtype)).unconstrained()
    parameter.grad = torch.ones_like(parameter)
    FusedOptimizer(constructor, {"lr": 0.5})([parameter])
    assert (parameter == parameter[0]).all()
    assert parameter[0] < 0.9


def test_optimiser_of_pyro_steps_as_in_pyro_itself(model, small_prior, prompts):
    guide, by_hand = FineTuned(small_prior), FineTuned(small_prior)
    result = quiet(model, guide, prompts, 4, optimizer=PYRO["SGD"]())
    assert result.metrics[0]["learning_rate"] == 0.01
    pyro.set_rng_seed(0)
    svi = SVI(model, by_hand, PYRO["SGD"](), LeaveOneOut_ELBO(4))
    for _ in range(4):
        svi.step(prompts)
    assert torch.equal(parameters_of(guide), parameters_of(by_hand))


def test_muon_takes_matrices_and_says_so_of_others(model, small_prior, prompts, tmp_path):
    match = r"Muon refuses the options .* only supports 2D parameters"
    with pytest.raises(ValueError, match=match):
        quiet(model, FineTuned(small_prior), prompts, optimizer=FusedOptimizer(torch.optim.Muon))

    class Matrices(FineTuned):
        def __init__(self, prior):
            super().__init__(prior)
            for parameter in self.parameters():
                parameter.requires_grad_(parameter.dim() == 2)

    muon = partial(FusedOptimizer, torch.optim.Muon)
    assert_resumes(muon, model, lambda: Matrices(small_prior), prompts, tmp_path)


def test_optimiser_that_cannot_step_in_a_fit_is_refused_by_name(model, small_prior, prompts):
    with pytest.raises(TypeError, match="LBFGS needs a closure"):
        FusedOptimizer(torch.optim.LBFGS)
    with pytest.raises(TypeError, match="constructor is a Adam, expected a class"):
        FusedOptimizer(torch.optim.Adam([torch.zeros(1)]))
    with pytest.raises(TypeError, match="options is a function, expected a dict"):
        FusedOptimizer(options=lambda name: {"lr": 0.1})
    match = r"SparseAdam cannot step in a fit .* does not support dense gradients"
    with pytest.raises(ValueError, match=match):
        FusedOptimizer(torch.optim.SparseAdam)
    with pytest.raises(ValueError, match="SparseAdam cannot step in a fit"):
        quiet(model, FineTuned(small_prior), prompts, optimizer=pyro.optim.SparseAdam({"lr": 0.1}))
    scheduler = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    )
    match = r"is a PyroLRScheduler, expected one of `pyro.optim` that is no scheduler"
    with pytest.raises(TypeError, match=match):
        quiet(model, FineTuned(small_prior), prompts, optimizer=scheduler)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.1},
        {"betas": (2.0, 0.9)},
        {"eps": -1.0},
        {"weight_decay": -1.0},
        {"params": []},
    ],
)
def test_options_that_the_constructor_refuses_are_refused_at_once(options):
    with pytest.raises((TypeError, ValueError), match="Adam"):
        FusedOptimizer(options=options)


UPHILL = {
    "maximize": lambda: FusedOptimizer(torch.optim.SGD, {"lr": 0.1, "maximize": True}),
    "clip_norm": lambda: FusedOptimizer(ClippedAdam, {"clip_norm": -1.0}),
    "maximize, by Pyro": lambda: pyro.optim.Adam({"lr": 0.1, "maximize": True}),
    "clip_norm, by Pyro": lambda: pyro.optim.Adam({"lr": 0.1}, {"clip_norm": -1.0}),
    "clip_norm of NaN, by Pyro": lambda: pyro.optim.Adam({"lr": 0.1}, {"clip_norm": math.nan}),
    "clip_value, by Pyro": lambda: pyro.optim.Adam({"lr": 0.1}, {"clip_value": -1.0}),
    "clip_norm of one parameter, by Pyro": lambda: pyro.optim.Adam(
        {"lr": 0.1}, lambda module, name: {"clip_norm": -1.0}
    ),
    "maximize of one parameter, by Pyro": lambda: pyro.optim.SGD(
        lambda name: {"lr": 0.1, "maximize": True}
    ),
    "clip_norm, by Pyro's ClippedAdam": lambda: pyro.optim.ClippedAdam(
        {"lr": 0.1, "clip_norm": -1.0}
    ),
    "lr, by Pyro's ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": -0.1}),
    "eta, by Pyro": lambda: pyro.optim.AdagradRMSProp({"eta": -0.1}),
}


@pytest.mark.parametrize("name", UPHILL)
def test_options_that_would_climb_are_refused_before_a_step(name, model, small_prior, prompts):
    guide, option = Tabular(small_prior, prompts), name.split(",")[0].split()[0]
    before = guide.table.detach().clone()
    with pytest.raises(ValueError, match=rf"^{option} is "):
        quiet(model, guide, prompts, optimizer=UPHILL[name]())
    assert torch.equal(guide.table, before)


def test_schedule_needs_a_rate():
    match = "OtherNames has no learning rate `lr` that a schedule could change"
    with pytest.raises(ValueError, match=match):
        FusedOptimizer(OtherNames, schedule=lambda step: 1.0)
    assert math.isnan(FusedOptimizer(OtherNames, schedule=constant).learning_rate)


def test_used_optimiser_of_pyro_is_refused(model, small_prior, prompts):
    optimizer = PYRO["Adam"]()
    quiet(model, Tabular(small_prior, prompts), prompts, 1, optimizer=optimizer)
    with pytest.raises(ValueError, match="has been used already, expected a new one"):
        quiet(model, Tabular(small_prior, prompts), prompts, 1, optimizer=optimizer)
