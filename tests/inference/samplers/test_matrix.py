"""Every registered sampler against theory. An entry of the registry without a claim here fails."""

import math

import pyro
import pytest
import torch

from inference import SAMPLERS, Enumeration
from inference.samplers.posterior import NoSupportError
from model import Prompts
from tests.inference.objectives.table import TWO, Table, Target

TARGETS = {
    "enumeration": "posterior",
    "importance": "posterior",
    "rejection": "posterior",
    "quasi-rejection": "posterior, nearly",
    "best-of-n": "best of n",
    "metropolis-hastings": "posterior",
    "independence-metropolis-hastings": "posterior",
    "smc": "posterior",
    "twisted-smc": "posterior",
    "annealed-smc": "posterior",
}
"""Distributions to which the weighted draws converge."""

UNBIASED_Z = {
    "enumeration",
    "importance",
    "rejection",
    "quasi-rejection",
    "smc",
    "twisted-smc",
    "annealed-smc",
}
"""exp(log_z) is unbiased; the others have none."""

DRAWS_AND_WEIGHS = [
    name
    for name, entry in SAMPLERS.items()
    if not entry.lists_all and not entry.needs_bound and entry.target != "best of n"
]


def sampled(name, model, prompts, guide=None, num_samples=1024, truth=None):
    """Sample by the registry, with the bound for rejection, unknown for a plain function."""
    if not SAMPLERS[name].needs_bound:
        return SAMPLERS[name](model, prompts, guide=guide, num_samples=num_samples)
    log_weight = truth.log_joint - (truth.log_prior if guide is None else truth.log_guide(guide))
    return SAMPLERS[name].sample(
        model, prompts, guide=guide, num_samples=num_samples, log_bound=log_weight.amax(0)
    )


def frequencies(posterior, truth):
    """The weight on each response of the support, `[S, N]`."""
    same = (posterior.response[:, None] == truth.support[None]).all(-1)  # [M, S, N]
    return (posterior.probability[:, None] * same).sum(0)


def chance(truth, posterior):
    """Total variation that as many draws exceed once in 3 million times, `[N]` (McDiarmid)."""
    size = posterior.diagnostics.get("effective_sample_size", posterior.effective_sample_size)
    p = truth.log_posterior.exp()
    return 0.5 * (p * (1 - p) / size).sqrt().sum(0) + (7.5 / size).sqrt()


def bounded(prompts, response):
    """In [0, 4] after division by beta, different for each prompt."""
    return 0.5 * prompts.ids[:, -1] * response.double().mean(-1)


def test_every_sampler_has_a_claim():
    assert {name: entry.target for name, entry in SAMPLERS.items()} == TARGETS


@pytest.mark.parametrize("from_guide", [False, True], ids=["from the prior", "from a guide"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_weighted_draws_have_the_claimed_distribution(name, from_guide):
    model, guide = Target(bounded), Table(1) if from_guide else None
    truth = Enumeration(model, TWO)
    posterior = sampled(name, model, TWO, guide, 10_000, truth)
    assert posterior.response.shape[1:] == (2, 2)
    distance = 0.5 * (frequencies(posterior, truth) - truth.log_posterior.exp()).abs().sum(0)
    if SAMPLERS[name].lists_all:
        assert (distance < 1e-9).all()
    elif SAMPLERS[name].target == "posterior":
        assert (distance < chance(truth, posterior)).all()
    elif SAMPLERS[name].target == "best of n":
        assert (distance > 0.1).all()
    else:
        assert (
            distance < posterior.diagnostics["total_variation_bound"] + chance(truth, posterior)
        ).all()


@pytest.mark.parametrize("from_guide", [False, True], ids=["from the prior", "from a guide"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_estimate_of_z_is_unbiased_or_absent(name, from_guide):
    """100 estimates, in 4 runs on 25 equal prompts."""
    model, guide = Target(bounded), Table(1) if from_guide else None
    prompts = Prompts.from_ids([[1]] * 25, [f"copy {n}" for n in range(25)])
    truth = Enumeration(model, prompts)
    runs = [sampled(name, model, prompts, guide, 64, truth).log_z for _ in range(4)]
    if name not in UNBIASED_Z:
        assert all(run is None for run in runs)
        return
    ratio = torch.cat([(run - truth.log_z).exp() for run in runs])
    error = ratio.std() / 10
    assert (ratio.mean() - 1).abs() < 5 * error + 1e-9
    assert error < 0.2


@pytest.mark.parametrize("name", SAMPLERS)
def test_impossible_responses_get_no_weight(name):
    """Hard constraint: half of the words are impossible."""

    def reward(_, response):
        return torch.where(response[..., 0] == 2, -math.inf, 0.3 * response[..., 1].double())

    model = Target(reward)
    truth = Enumeration(model, TWO)
    weight = frequencies(sampled(name, model, TWO, num_samples=4_000, truth=truth), truth)
    impossible = truth.log_posterior.isneginf()
    assert impossible.any()
    assert (weight[impossible] < (0.02 if SAMPLERS[name].target == "best of n" else 1e-12)).all()
    assert (weight.sum(0) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("name", DRAWS_AND_WEIGHS)
def test_no_possible_draw_is_an_error_that_names_the_prompt(name):
    def reward(prompts, response):
        return (
            torch.where(prompts.ids[:, -1] == 2, -math.inf, 0.0)
            .double()
            .expand(response.shape[:-1])
        )

    with pytest.raises(NoSupportError, match="'two'"):
        sampled(name, Target(reward), TWO, num_samples=256)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prompts_of_very_different_rewards_do_not_disturb_each_other(name):
    def reward(prompts, response):
        return bounded(prompts, response) + 20.0 * (prompts.ids[:, -1] - 1.5)

    far, near = Enumeration(Target(reward), TWO), Enumeration(Target(bounded), TWO)
    assert torch.allclose(far.log_posterior, near.log_posterior)
    pyro.set_rng_seed(0)
    weight = frequencies(sampled(name, Target(reward), TWO, num_samples=2_000, truth=far), far)
    pyro.set_rng_seed(0)
    expected = frequencies(sampled(name, Target(bounded), TWO, num_samples=2_000, truth=near), near)
    assert torch.allclose(weight, expected, atol=1e-6)
