"""Micro-batches: the gradient of the whole batch, for every objective, in bounded memory."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides import FineTuned
from inference import OBJECTIVES
from inference.response_site import ResponseSiteError
from model import Prompts
from tests.inference.conftest import killed_and_resumed, quiet
from tests.inference.svi.step_gradients import World, gradients_of_steps, new_guide, world_of


def reward(prompts: Prompts, response: Tensor) -> Tensor:
    """Different for each response and each prompt."""
    number = torch.arange(1, len(prompts) + 1)
    return number * 0.3 * (response == 3).sum(-1) - 0.1 * response[..., 0]


def world(dtype: torch.dtype) -> World:
    return world_of("llama", reward, dtype, max_new_tokens=8)


def gradients(name: str, dtype: torch.dtype, size: int | None, **options) -> list[Tensor]:
    """Gradients of two steps, or of all steps on a batch and of the first step on the next."""
    num_steps = 1 + getattr(OBJECTIVES[name](), "epochs", 1)
    return gradients_of_steps(world(dtype), name, num_steps, size=size, **options)


DOUBLE, SINGLE = (torch.float64, 1e-12), (torch.float32, 1e-6)
"""Types of the parameters, with the rounding of a sum in another order."""
SOME = ["leave-one-out", "trajectory-balance", "gauss-newton"]


@pytest.mark.parametrize(
    ("name", "kind", "size", "options"),
    [(name, DOUBLE, 5, {}) for name in OBJECTIVES]
    + [(name, kind, size, {}) for name in SOME for kind, size in ((DOUBLE, 1), (SINGLE, 5))]
    + [("dapo", DOUBLE, 5, {"top_entropy_quantile": 0.3})],
)
def test_micro_batches_have_the_gradient_of_the_whole_batch(name, kind, size, options):
    dtype, tolerance = kind
    whole = gradients(name, dtype, None, **options)
    assert all(gradient.norm() > 1e-3 for gradient in whole)
    for expected, gradient in zip(whole, gradients(name, dtype, size, **options), strict=True):
        if expected.device.type != "cpu":  # where Llama's norms in float32 round by the batch
            tolerance = max(tolerance, 1e-6)
        assert (gradient - expected).norm() <= tolerance * expected.norm()


def trained(size: int | None, objective: str = "leave-one-out", **options) -> Tensor:
    """Parameters after a fit, in one row."""
    prior, model, prompts = world(torch.float64)
    guide = new_guide(OBJECTIVES[objective], prior, prompts)
    options |= {"objective": OBJECTIVES[objective](num_particles=4), "prompts_per_step": 2}
    quiet(model, guide, prompts, 6, micro_batch=size, **options)
    return torch.cat([p.detach().flatten() for p in guide.parameters() if p.requires_grad])


@pytest.mark.parametrize("objective", ["leave-one-out", "trajectory-balance"])
def test_a_fit_in_micro_batches_is_the_same_fit(objective):
    """Same random numbers, and the same steps in nats."""
    assert torch.allclose(trained(3, objective), trained(None, objective), rtol=0, atol=1e-9)


def test_a_fit_that_ran_out_of_memory_resumes_in_micro_batches(tmp_path):
    """The size is no part of the fit's description."""
    sizes = iter([None, 2])

    def run(**options):
        folder = {"checkpoint_folder": tmp_path, "checkpoint_every": 1}
        return trained(next(sizes), **folder, **options)

    assert torch.allclose(killed_and_resumed(run, 3), trained(None), rtol=0, atol=1e-9)


def test_no_pass_with_gradient_has_more_responses_than_a_micro_batch():
    prior, model, prompts = world(torch.float64)
    guide = FineTuned(prior)
    num_rows = {True: set(), False: set()}

    def record(_, __, keywords):
        if "input_ids" in keywords:  # a pass of the body, not of the head alone
            num_rows[torch.is_grad_enabled()].add(len(keywords["input_ids"]))

    guide.language_model.network.register_forward_pre_hook(record, with_kwargs=True)
    quiet(model, guide, prompts, 1, micro_batch=2)
    assert max(num_rows[True]) == 2
    assert max(num_rows[False]) == 8  # draws, of which a cache is kept and no activations


def test_draws_that_cannot_be_divided_are_refused_by_name():
    def guide(prompts):
        logits = pyro.param("logits", torch.zeros(4, 85))
        pyro.sample("index", dist.Categorical(logits=logits[0]))

    _, model, prompts = world(torch.float64)
    with pytest.raises(ResponseSiteError, match=r"'index' has a Categorical.*micro_batch"):
        quiet(model, guide, prompts, 1, micro_batch=2)
