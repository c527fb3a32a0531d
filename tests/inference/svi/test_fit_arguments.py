"""Arguments of `fit`: refused by name if impossible, and no steps that train nothing."""

import copy
import math
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

from guides import FineTuned, Tabular
from guides.guide import GuideRegistrationError
from inference import (
    OBJECTIVES,
    FusedOptimizer,
    LeaveOneOut_ELBO,
    diagnose,
    fit,
    random_state,
)
from inference.response_site import ResponseSiteError
from inference.svi.checkpoint.folder import CheckpointError
from inference.svi.gradient_checks import NothingToTrainError
from model import AlignmentModel, LanguageModel, TextReward, vader_sentiment
from tests.inference.conftest import parameters_of, rows_of


def quiet(model, guide, prompts, num_steps=1, **options):
    options = {"objective": LeaveOneOut_ELBO(4), "progress": False} | options
    return fit(model, guide, prompts, num_steps=num_steps, **options)


def test_numbers_of_numpy_become_numbers_of_python(model, small_prior, prompts, tmp_path):
    """A step has 128 responses, more than an `int8` can count."""
    numbers = {"seed": 3, "prompts_per_step": 1, "micro_batch": 100, "checkpoint_every": 2}
    guides = []
    for kind in (int, np.int8):
        guides.append(Tabular(small_prior, prompts))
        options = {name: kind(number) for name, number in numbers.items()}
        options |= {"objective": LeaveOneOut_ELBO(128), "checkpoint_folder": tmp_path / str(kind)}
        quiet(model, guides[-1], prompts, 3, **options)
    assert torch.equal(guides[0].table, guides[1].table)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf])
def test_optimiser_refuses_a_rate_out_of_range(value):
    with pytest.raises(ValueError, match=r"^lr is "):
        FusedOptimizer(options={"lr": value})
    with pytest.raises(ValueError, match=r"^lr is "):
        FusedOptimizer(options={"lr": torch.tensor(float(value))})
    for kind in (True, "1", [0.1]):
        with pytest.raises(ValueError, match=r"^lr is "):
            FusedOptimizer(options={"lr": kind})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None])
def test_schedule_that_begins_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="the schedule's factor at step 0 is"):
        FusedOptimizer(schedule=lambda step: value)


def test_other_kinds_of_arguments_are_refused(model, small_prior, prompts):
    guide = Tabular(small_prior, prompts)
    with pytest.raises(TypeError, match=r"expected a Prompts: `prior\.encode"):
        quiet(model, guide, prompts.ids)
    with pytest.raises(TypeError, match="guide is a Parameter, expected a function"):
        quiet(model, guide.table, prompts)
    with pytest.raises(ValueError, match="model and guide are the same program"):
        quiet(model, model, prompts)
    with pytest.raises(ResponseSiteError, match=r"AlignmentModel, has a .*each other's place"):
        quiet(guide, model, prompts)
    for bad in [LeaveOneOut_ELBO, "leave-one-out"]:
        with pytest.raises(TypeError, match=r"expected an object of a `pyro.infer.ELBO`"):
            quiet(model, guide, prompts, objective=bad)
    for bad in [torch.optim.Adam, torch.optim.Adam(guide.parameters()), "adam"]:
        with pytest.raises(TypeError, match="expected a `FusedOptimizer`"):
            quiet(model, guide, prompts, optimizer=bad)


def test_folder_may_be_a_text_and_resume_needs_one(model, small_prior, prompts, tmp_path):
    with pytest.raises(ValueError, match="resume is True without a checkpoint_folder"):
        quiet(model, Tabular(small_prior, prompts), prompts, resume=True)
    quiet(model, Tabular(small_prior, prompts), prompts, 3, checkpoint_folder=str(tmp_path))
    options = {"checkpoint_folder": str(tmp_path), "resume": True}
    resumed = quiet(model, Tabular(small_prior, prompts), prompts, 4, **options)
    assert [record["step"] for record in resumed.metrics] == [4]
    match = "is of step 4, expected at most num_steps=2: ask for more steps"
    options["checkpoint_folder"] = Path(tmp_path)
    with pytest.raises(CheckpointError, match=match):
        quiet(model, Tabular(small_prior, prompts), prompts, 2, **options)


def frozen(prior, prompts):
    return FineTuned(prior).requires_grad_(False)


def frozen_by_a_wrapper(prior, prompts):
    guide = FineTuned(prior)
    wrapped = guide.language_model
    LanguageModel(wrapped.network, wrapped.tokenizer, max_new_tokens=2)
    return guide


def without_parameters(prior, prompts):
    def guide(prompts):
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", prior(prompts))

    return guide


def hidden(prior, prompts):
    return poutine.block(Tabular(prior, prompts), hide_types=["param"])


def detached(prior, prompts):
    size = prior.vocab_size
    return rows_of(size, lambda: pyro.param("logits", torch.zeros(2, size)).detach())


@pytest.mark.parametrize(
    "make", [frozen, frozen_by_a_wrapper, without_parameters, detached, hidden]
)
@pytest.mark.parametrize(
    "objective", ["leave-one-out", "trace", "forward-kl", "reward-to-go", "proximal"]
)
def test_nothing_to_train_is_said_in_the_first_step(objective, make, model, small_prior, prompts):
    if make is detached:
        model = rows_of(small_prior.vocab_size)
        objective = "trace" if objective == "reward-to-go" else objective
    guide, objective = make(small_prior, prompts), OBJECTIVES[objective](num_particles=4)
    with pytest.raises(NothingToTrainError, match="no gradient reaches any of the") as raised:
        quiet(model, guide, prompts, 5, objective=objective)
    assert raised.value.fit.state.step == 0


def test_rows_that_are_no_responses_are_the_reason_of_an_infinite_loss(model, small_prior, prompts):
    """A guide of independent tokens draws tokens after an end."""
    size = small_prior.vocab_size
    guide = rows_of(size, lambda: pyro.param("logits", torch.zeros(2, size)))
    with pytest.warns(UserWarning, match=r"the loss is inf.* rows that the guide drew are no resp"):
        quiet(model, guide, prompts, 5)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_are_named_before_a_step(off, model, small_prior, prompts):
    with off(), pytest.raises(RuntimeError, match=r"gradients are off, by .*call `fit` outside"):
        quiet(model, Tabular(small_prior, prompts), prompts, 5)


def test_head_of_the_objective_is_not_the_guide(model, small_prior, prompts):
    """A frozen guide is refused: the value function alone would train."""
    guide, objective = frozen(small_prior, prompts), OBJECTIVES["reward-to-go-value"]()
    with pytest.raises(NothingToTrainError):
        quiet(model, guide, prompts, objective=objective)


class Unregistered(torch.nn.Module):
    """Guide without `pyro.module` for all or half of the parameters."""

    def __init__(self, prior, half):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(2, prior.vocab_size))
        self.bias = torch.nn.Linear(1, prior.vocab_size, device=prior.device)
        self.half = half

    def forward(self, prompts):
        if self.half:
            pyro.module("bias", self.bias)
        rows_of(len(self.bias.bias), lambda: self.table + self.bias.bias)(prompts)


@pytest.mark.parametrize("half", [False, True])
def test_forgotten_registration_is_noticed(half, small_prior, prompts):
    match = r"first 'table', so that they would not train: call `pyro.module"
    with pytest.raises(GuideRegistrationError, match=match):
        quiet(rows_of(small_prior.vocab_size), Unregistered(small_prior, half), prompts)


def test_a_guide_that_trains_the_prior_itself_is_refused(small_prior, prompts):
    prior = copy.deepcopy(small_prior)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), beta=0.3)
    prior.network.requires_grad_(True)

    def guide(prompts):
        pyro.module("tuned", prior)
        with pyro.plate("prompts", len(prompts), dim=-1):
            return pyro.sample("response", prior(prompts))

    with pytest.raises(GuideRegistrationError, match=r"own prior.*deepcopy"):
        quiet(model, guide, prompts)


def test_guide_of_which_a_part_trains_is_fine(model, small_prior, prompts):
    guide = FineTuned(small_prior)
    parameters = list(guide.parameters())
    for parameter in parameters[:-1]:
        parameter.requires_grad_(False)
    before = parameters_of(guide)
    quiet(model, guide, prompts)
    changed = before != parameters_of(guide)
    assert changed[-len(parameters[-1].flatten()) :].any()
    assert not changed[: -len(parameters[-1].flatten())].any()


def test_gradient_of_another_loss_is_not_in_the_first_step(model, small_prior, prompts):
    guide, alone = FineTuned(small_prior), FineTuned(small_prior)
    for parameter in guide.parameters():
        parameter.grad = torch.ones_like(parameter)
    quiet(model, guide, prompts)
    quiet(model, alone, prompts)
    assert torch.equal(parameters_of(guide), parameters_of(alone))


def test_callback_may_measure_and_fit(model, small_prior, prompts):
    """A fit inside a fit, in one thread, does not change the draws of the outer fit."""
    guide, alone = FineTuned(small_prior), FineTuned(small_prior)

    def look(metrics):
        diagnose(model, guide, prompts, num_samples=4)
        quiet(model, Tabular(small_prior, prompts), prompts, seed=9)

    result = quiet(model, guide, prompts, 3, on_step=look)
    quiet(model, alone, prompts, 3)
    assert result.stopped_early is None
    assert torch.equal(parameters_of(guide), parameters_of(alone))


def test_warns_of_generators_of_absent_devices():
    tensors, plain = random_state.capture()
    expected = torch.rand(2)
    tensors |= {"cuda:7": torch.zeros(16, dtype=torch.uint8)}
    with pytest.warns(UserWarning, match="the generators of cuda:7 were not restored"):
        random_state.restore(tensors, plain)
    assert torch.equal(torch.rand(2), expected)
