"""Health of a fit: numbers of the draws, warnings at the step, the return to the best step."""

import math
import warnings
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from guides import FineTuned
from inference import OBJECTIVES, FusedOptimizer, LeaveOneOut_ELBO, SquaredResidual
from inference.enumeration import entropy
from inference.estimate import Estimate
from inference.svi.best_iterate import BestIterate
from inference.svi.fit_objective import fit_objective
from inference.svi.health import DrawNumbers, Health, Series, mean_of_steps
from inference.svi.step_numbers import step_numbers
from model import AlignmentModel, contains
from tests.inference.conftest import killed_and_resumed, parameters_of, quiet


def numbers_of(objective, model, guide, prompts):
    objective = fit_objective(objective)
    with pyro.get_param_store().scope():
        loss = objective.loss_and_grads(model, guide, prompts)
    return step_numbers(objective, loss, len(prompts)).of_draws


@pytest.mark.parametrize(
    "name", ["leave-one-out", "trace", "trajectory-balance", "proximal", "reverse-kl"]
)
def test_numbers_of_the_draws_are_those_of_the_guide(name, model, prompts, truth, guide):
    """Against sums over all responses: ELBO, entropy, and on-policy the variance of the ELBO."""
    num = 4000
    numbers = numbers_of(OBJECTIVES[name](num_particles=num), model, guide, prompts)
    log_guide = truth.log_guide(guide)
    log_weight = truth.log_joint - log_guide
    variance = (log_guide.exp() * (log_weight - truth.elbo(guide)).square()).sum(0)
    error = math.sqrt(numbers.variance)
    assert abs(numbers.elbo - truth.elbo(guide).mean().item()) < 4 * error
    assert numbers.entropy == pytest.approx(entropy(log_guide).mean().item(), abs=0.15)
    if name != "trajectory-balance":  # whose draws are bolder than the guide's
        exact = variance.sum().item() / (num * len(prompts) ** 2)
        assert numbers.variance == pytest.approx(exact, rel=0.1)


def test_numbers_off_policy_are_weighted(model, prompts, truth, guide):
    """The errors of 60 estimates from bolder draws have the standard deviation stated."""
    z = []
    for _ in range(60):
        objective = SquaredResidual(num_particles=64, exploration_kl=0.2)
        objective.exploration.temperature = 1.5
        numbers = numbers_of(objective, model, guide, prompts)
        z.append((numbers.elbo - truth.elbo(guide).mean().item()) / math.sqrt(numbers.variance))
    assert torch.tensor(z).std().item() == pytest.approx(1.0, abs=0.3)


def test_one_draw_has_no_variance_and_enumeration_has_no_noise(model, prompts, guide):
    assert math.isnan(numbers_of(Trace_ELBO(), model, guide, prompts).variance)
    # particles one after the other are draws of one step
    assert numbers_of(Trace_ELBO(num_particles=3), model, guide, prompts).variance > 0


def test_the_mean_of_steps_has_the_stated_error():
    """By the variances, and without them by differences, in which a trend hardly counts."""
    assert mean_of_steps([1.0, 3.0], [0.5, 0.5], math.inf) == (2.0, 0.5)
    assert mean_of_steps([1.0, 3.0], [0.5, math.nan], Series([1.0, 3.0]).noise)[1] == math.inf
    assert Series([0.0, 2.0] * 3).noise == 2.0  # five differences of 2
    noise = torch.randn(1000, 50, dtype=torch.float64) + 0.1 * torch.arange(50)
    errors = [mean_of_steps(row, [math.nan], Series(row).noise)[1] for row in noise.tolist()]
    assert sum(errors) / 1000 == pytest.approx(1 / math.sqrt(50), rel=0.02)


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_disaster_returns_to_an_earlier_step(kind, model, small_prior, prompts, truth):
    """No earlier iterate is better than the result by more than noise, by the exact KL."""
    module = FineTuned(small_prior)

    def function(prompts):
        return module(prompts)

    guide, kls = (module if kind == "module" else function), []
    kls.append(truth.kl_guide_posterior(module).mean().item())

    def record(_):
        kls.append(truth.kl_guide_posterior(module).mean().item())

    schedule = lambda step: 1.0 if step < 30 else 300.0  # noqa: E731
    optimizer = FusedOptimizer(options={"lr": 3e-4}, schedule=schedule)
    objective = LeaveOneOut_ELBO(num_particles=32)
    with pytest.warns(UserWarning, match="the guide has the parameters of step"):
        result = quiet(
            model, guide, prompts, 40, objective=objective, optimizer=optimizer, on_step=record
        )
    end = truth.kl_guide_posterior(module).mean().item()
    assert end == pytest.approx(kls[result.best_step], rel=1e-9)
    assert 20 < result.best_step <= 30
    assert kls[-1] > end + 0.2
    assert end < min(kls) + 0.1


@pytest.mark.parametrize(("fall", "is_clear"), [(2.0, False), (4.0, True)])
def test_a_fall_of_three_errors_is_a_warning(fall, is_clear):
    health = Health()
    for step in range(1, 12):
        elbo, variance = (0.0, 1.0) if step == 1 else (-fall, 1e-4)
        health.add(step, DrawNumbers(elbo, variance, entropy=9.0), 0.0, 1.0)
    assert bool(health.check(ascends_elbo=True)) == is_clear


def test_the_best_iterate_has_an_elbo_that_is_a_number():
    best, parameters = BestIterate(), {"w": torch.zeros(1)}
    values = (math.nan, 0.1), (1.0, 0.1), (0.9, 0.1), (1.05, 0.2), (math.nan, 0.1)
    for step, elbo in enumerate(values):
        best.consider(step, Estimate(*elbo), parameters)
    assert (best.step, best.elbo) == (1, (1.0, 0.1))
    parameters["w"] += 1
    assert best.restore(Estimate(0.0, 0.3), parameters) == ""  # 1.0 is 3.2 errors of both
    assert best.restore(Estimate(-0.3, 0.3), parameters).startswith("the ELBO of the last steps is")
    assert parameters["w"].item() == 0


def test_the_kept_parameters_survive_an_interrupt(model, small_prior, prompts, tmp_path):
    """Interrupted after the disaster and resumed, the fit returns to the same step."""

    def run(folder, **options):
        guide = FineTuned(small_prior)
        schedule = lambda step: 1.0 if step < 6 else 300.0  # noqa: E731
        options |= {"optimizer": FusedOptimizer(options={"lr": 3e-4}, schedule=schedule)}
        options |= {"objective": LeaveOneOut_ELBO(64), "checkpoint_folder": folder}
        return guide, quiet(model, guide, prompts, 20, **options)

    whole, expected = run(tmp_path / "whole")
    resumed, result = killed_and_resumed(partial(run, tmp_path / "killed"), step=15)
    assert expected.best_step is not None
    assert result.best_step == expected.best_step
    assert result.warnings == expected.warnings
    assert torch.equal(parameters_of(whole), parameters_of(resumed))


def test_a_fit_that_stops_at_an_error_returns_too(model, small_prior, prompts, truth):
    """A rate that grows until the network has no numbers."""
    guide = FineTuned(small_prior)
    start = truth.kl_guide_posterior(guide).mean().item()
    optimizer = FusedOptimizer(options={"lr": 1e-3}, schedule=lambda step: 4.0**step)
    objective = LeaveOneOut_ELBO(num_particles=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = quiet(model, guide, prompts, 2000, objective=objective, optimizer=optimizer)
    assert result.stopped_early is not None
    assert result.best_step is not None
    assert truth.kl_guide_posterior(guide).mean().item() < start + 0.1


@pytest.mark.parametrize("name", ["forward-kl", "wake-phi", "multi-sample"])
def test_objectives_of_other_divergences_keep_the_last_step(name, model, small_prior, prompts):
    """Neither a copy nor a warning about the ELBO, which these objectives do not ascend."""
    guide = FineTuned(small_prior)
    optimizer = FusedOptimizer(torch.optim.SGD, {"lr": 10.0})
    options = {"objective": OBJECTIVES[name](num_particles=8), "optimizer": optimizer}
    result = quiet(model, guide, prompts, 8, **options)
    assert result.best_step is None
    assert result.state.best is None
    assert not any("ELBO" in warning for warning in result.warnings)


def test_a_fit_may_keep_the_last_step(model, small_prior, prompts):
    options = {"objective": LeaveOneOut_ELBO(num_particles=8), "keep_best": False}
    options |= {"optimizer": FusedOptimizer(options={"lr": 0.3})}
    with pytest.warns(UserWarning, match="is below|, below"):
        result = quiet(model, FineTuned(small_prior), prompts, 5, **options)
    assert result.best_step is None
    assert result.state.best is None


def test_a_fall_of_the_elbo_warns_at_the_step(model, small_prior, prompts):
    seen, options = [], {"optimizer": FusedOptimizer(options={"lr": 0.3})}
    options["on_step"] = lambda metrics: seen.append(len(records))
    with pytest.warns(UserWarning, match=r"step 2: the ELBO .* steps is .* below") as records:
        result = quiet(model, FineTuned(small_prior), prompts, 5, **options)
    assert seen[:2] == [0, 1]
    falls = [warning for warning in result.warnings if warning.startswith("step 2: the ELBO")]
    assert len(falls) == 1


@pytest.mark.parametrize(
    ("name", "prompts_per_step"),
    [
        *[("leave-one-out", None), ("leave-one-out", 1), ("trace", None), ("proximal", 1)],
        ("online-dpo", None),
    ],
)
def test_a_healthy_fit_has_no_warnings(name, prompts_per_step, model, small_prior, prompts):
    options = {"prompts_per_step": prompts_per_step}
    objective = OBJECTIVES[name](num_particles=16)
    result = quiet(model, FineTuned(small_prior), prompts, 40, objective=objective, **options)
    assert result.warnings == []
    assert result.best_step is None


def fed(health, entropies, likelihoods):
    for step, (value, likelihood) in enumerate(zip(entropies, likelihoods, strict=True), 1):
        health.add(step, DrawNumbers(elbo=0.0, variance=1.0, entropy=value), likelihood, 1.0)
        if new := health.check(ascends_elbo=False):
            return step, new
    return None, []


def test_a_collapse_of_the_entropy_needs_a_likelihood_that_stands_still():
    noise = [0.1, -0.1] * 20
    entropies = [20.0 - 0.5 * i + e for i, e in enumerate(noise)]
    step, [sentence] = fed(Health(), entropies, [1.0 + e for e in noise])
    assert 20 < step < 32
    assert "the entropy of the guide fell from 19.0" in sentence
    rising = [1.0 + 0.1 * i for i in range(40)]
    assert fed(Health(), entropies, rising) == (None, [])
    assert fed(Health(), [20.0 + e for e in noise], [1.0] * 40) == (None, [])


@pytest.mark.parametrize("name", ["forward-kl", "wake-phi", "total-variation"])
def test_steps_without_a_possible_response_are_named(name, small_prior, prompts, tmp_path):
    """At the tenth step and once, also if the fit was killed before."""

    def run(words, **options):
        factors = {"words": contains(words, small_prior)}
        model = AlignmentModel(small_prior, {}, 1.0, factors=factors)
        objective, steps = OBJECTIVES[name](num_particles=8), {"num_steps": 12, "seed": 1}
        guide = FineTuned(small_prior)
        return quiet(model, guide, prompts, objective=objective, **steps, **options)

    with pytest.warns(UserWarning, match="learns nothing"):
        result = run("zebra")
    [sentence] = result.warnings
    assert sentence.startswith("step 10: the last 10 steps had impossible responses")
    folder = {"checkpoint_folder": tmp_path, "checkpoint_every": 3}
    with pytest.warns(UserWarning, match="learns nothing"):
        killed_and_resumed(partial(run, "zebra", **folder), step=8)
    assert run(["very", "good"]).warnings == []


def test_entropy_is_among_the_metrics(model, small_prior, prompts, truth):
    guide = FineTuned(small_prior)
    exact = entropy(truth.log_guide(guide)).mean().item()
    objective = OBJECTIVES["leave-one-out"](num_particles=2000)
    result = quiet(model, guide, prompts, 1, objective=objective)
    assert result.metrics[0]["entropy"] == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("exploration_kl", [0.0, 0.1])
def test_an_elbo_from_bolder_draws_chooses_no_iterate(exploration_kl, model, small_prior, prompts):
    """Self-normalised estimates from few bolder draws would return a fit to its start."""
    objective = SquaredResidual(8, exploration_kl=exploration_kl)
    result = quiet(model, FineTuned(small_prior), prompts, 2, objective=objective)
    assert (result.state.best is None) == (exploration_kl > 0)


def test_dropped_steps_leave_no_trace_in_the_noise():
    """The noise is a running sum: after a drop, and from a checkpoint, it is that of a new fit."""

    def grown(num):
        health = Health()
        for step in range(num):
            health.add(step, DrawNumbers(elbo=math.sin(step**2), entropy=1.0), 0.0, 1.0)
        return health

    dropped, resumed = grown(30), Health()
    dropped.drop_after(19)
    resumed.set_state(grown(20).get_state())
    assert dropped.elbo == resumed.elbo == grown(20).elbo
    assert dropped.elbo != grown(30).elbo
