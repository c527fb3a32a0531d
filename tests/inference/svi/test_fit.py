"""The fit: closes the gap, resumes bit for bit, shares nothing, keeps the last good parameters."""

import copy
import itertools
import math
import random
import signal
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from guides import FineTuned, NGram
from inference import OBJECTIVES, FusedOptimizer, LeaveOneOut_ELBO, cosine
from inference.objectives.proximal import Proximal_ELBO
from inference.svi.checkpoint.folder import CheckpointError
from inference.svi.fit_objective import elbo_of
from inference.svi.optimizer.trust_region import STEP_KL, TrustRegion
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment
from tests.forks import FORKS
from tests.inference.conftest import parameters_of, quiet, rows_of


def short_fit(model, guide, prompts, num_steps=6, **options):
    optimizer = FusedOptimizer(options={"lr": 3e-3}, clip_norm=1.0, schedule=cosine(6))
    options = {"objective": OBJECTIVES["leave-one-out"](num_particles=8)} | options
    return quiet(model, guide, prompts, num_steps, optimizer=optimizer, **options)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["leave-one-out", "trajectory-balance"])
def test_closes_the_gap(objective, model, small_prior, prompts, truth):
    guide = FineTuned(small_prior)
    start = truth.kl_guide_posterior(guide).mean()
    objective = OBJECTIVES[objective](num_particles=32)
    result = quiet(model, guide, prompts, 60, objective=objective)
    assert truth.kl_guide_posterior(guide).mean() < 0.1 * start
    elbo = np.mean([record["elbo"] for record in result.metrics[-15:]])
    assert elbo == pytest.approx(truth.elbo(guide).mean().item(), abs=0.1)


def test_metrics_add_up(model, small_prior, prompts):
    guide, objective = FineTuned(small_prior), OBJECTIVES["wake-phi"](num_particles=4)
    short_fit(model, guide, prompts, objective=objective)
    # the loss of the last step on the device is a number again in plain Pyro
    assert isinstance(objective.loss_and_grads(model, guide, prompts), float)
    assert isinstance(objective.metrics["elbo"], float)
    result = short_fit(model, guide, prompts)
    assert [record["step"] for record in result.metrics] == [1, 2, 3, 4, 5, 6]
    for record in result.metrics:
        assert record["elbo"] == pytest.approx(-record["loss"] / len(prompts))
        assert record["log_likelihood"] <= 1 / model.beta
    assert result.metrics[0]["learning_rate"] == 3e-3
    assert result.stopped_early is None


@pytest.mark.parametrize("vectorised", [False, True])
def test_likelihood_in_the_metrics_of_pyros_objectives_has_all_factors(
    small_prior, prompts, vectorised
):
    """Added up, each averaged over responses, prompts and runs of the model."""
    first = lambda _, response: torch.tensor([1.0, 3.0]).expand(response.shape[:-1])  # noqa: E731
    other = lambda _, response: torch.full(response.shape[:-1], 5.0)  # noqa: E731
    model = AlignmentModel(small_prior, {"first": first, "other": other}, beta=0.5)
    objective = Trace_ELBO(num_particles=3, vectorize_particles=vectorised, max_plate_nesting=1)
    result = short_fit(model, FineTuned(small_prior), prompts, num_steps=1, objective=objective)
    assert result.metrics[0]["log_likelihood"] == pytest.approx((2.0 + 5.0) / 0.5)
    assert result.metrics[0]["elbo"] == pytest.approx(14.0)  # the guide is the prior
    assert result.metrics[0]["loss"] == pytest.approx(-28.0)


def test_default_is_a_trust_region_and_leave_one_out(model, small_prior, prompts):
    result = quiet(model, NGram(small_prior, n=1), prompts, 1)
    assert isinstance(elbo_of(result.state.objective), LeaveOneOut_ELBO)
    assert isinstance(result.state.optimizer, TrustRegion)
    assert result.state.optimizer.step_kl == STEP_KL


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_learning_rate_is_of_adam_on_a_cosine(clip_norm, model, small_prior, prompts):
    """Warm-up over a twentieth of 40 steps, then half a cosine to 0, at the given rate and clip."""
    guide, rate = NGram(small_prior, n=1), 0.02
    options = {"learning_rate": rate, "clip_norm": clip_norm}
    result = quiet(model, guide, prompts, 40, **options)
    optimizer = result.state.optimizer
    assert (optimizer.clip_norm, optimizer.pt_optim_constructor) == (clip_norm, torch.optim.Adam)
    rates = [record["learning_rate"] for record in result.metrics]
    assert rates[:3] == pytest.approx([0.5 * rate, rate, rate])
    assert rates[21] == pytest.approx(rate * 0.5 * (1 + math.cos(math.pi * 19 / 38)))
    assert optimizer.learning_rate == pytest.approx(0, abs=1e-12)


def test_checkpoints_are_written_every_so_many_steps_and_at_the_end(
    model, small_prior, prompts, tmp_path
):
    seen = []

    def look(_):
        seen.append([int(path.name[-8:]) for path in tmp_path.glob("step-*")])

    options = {"checkpoint_folder": tmp_path, "checkpoint_every": 2, "on_step": look}
    short_fit(model, FineTuned(small_prior), prompts, num_steps=5, **options)
    newest = [max(steps, default=0) for steps in seen]
    assert newest == [0, 0, 2, 2, 4]  # on_step is called before the step's own is written
    assert max(int(path.name[-8:]) for path in tmp_path.glob("step-*")) == 5


def test_fits_share_nothing(model, small_prior, prompts):
    """A second guide ends as alone; generators and store of the process do not change.

    Nor do random draws between the steps change the fit.
    """
    alone, first, second = (FineTuned(small_prior) for _ in range(3))
    short_fit(model, alone, prompts)
    pyro.set_rng_seed(11)
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())
    pyro.set_rng_seed(11)
    short_fit(model, first, prompts, seed=5)
    short_fit(model, second, prompts, on_step=lambda metrics: torch.rand(3))
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected
    assert torch.equal(parameters_of(second), parameters_of(alone))
    assert not torch.equal(parameters_of(first), parameters_of(alone))
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("objective", [LeaveOneOut_ELBO(8), Proximal_ELBO(8, epochs=2)])
@pytest.mark.parametrize("num_steps", [3, 4])
def test_resumed_fit_is_the_same_bit_for_bit(
    model, small_prior, prompts, tmp_path, num_steps, objective
):
    """After a stop within an epoch, between two epochs, and between two steps on one batch."""
    whole, split, other = (FineTuned(small_prior) for _ in range(3))
    folder = {"checkpoint_folder": tmp_path, "checkpoint_every": 2}

    def run(guide, **options):
        objectives = {"objective": copy.deepcopy(objective)}
        return short_fit(model, guide, prompts, prompts_per_step=1, **objectives, **options)

    run(whole)
    run(split, num_steps=num_steps, **folder)
    result = run(other, resume=True, **folder)
    assert result.metrics[0]["step"] == num_steps + 1
    assert torch.equal(parameters_of(other), parameters_of(whole))


@pytest.mark.parametrize("objective", [LeaveOneOut_ELBO(4), Proximal_ELBO(4, epochs=2)])
@pytest.mark.parametrize("size", [1, 2])
def test_draws_of_each_epoch_are_for_each_prompt_once(small_prior, size, objective):
    """Fresh draws, in other orders and subsets from epoch to epoch; all prompts if they fit."""
    texts = ["the film was", "the plot was", "the"]
    prompts, batches = small_prior.encode(texts), []

    def model(prompts):
        batches.append(prompts.texts)
        with pyro.plate("prompts", len(prompts), dim=-1):
            pyro.sample("response", small_prior(prompts))

    objective, options = copy.deepcopy(objective), {"prompts_per_step": size}
    short_fit(model, NGram(small_prior, n=1), prompts, 60, objective=objective, **options)
    drawn = [text for batch in batches for text in batch]
    epochs = [drawn[start : start + 3] for start in range(0, len(drawn) - 2, 3)]
    assert len(epochs) >= 10
    assert all(sorted(epoch) == sorted(texts) for epoch in epochs)
    assert {batch for batch in batches if len(batch) == size} == {
        *itertools.combinations(texts, size)
    }
    batches.clear()
    short_fit(model, NGram(small_prior, n=1), prompts, 1, prompts_per_step=4)
    assert batches == [tuple(texts)]


def complete(folder):
    """Run a fit with a checkpoint at every step, or the rest of it."""
    torch.set_num_threads(1)
    prior = grammar_prior(max_new_tokens=2)
    guide = FineTuned(prior)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    options = {"objective": LeaveOneOut_ELBO(8), "optimizer": FusedOptimizer(schedule=cosine(40))}
    options |= {"checkpoint_folder": folder, "checkpoint_every": 1, "resume": True}
    quiet(model, guide, prior.encode(["the film was"]), 40, **options)
    guide.save_pretrained(folder)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """A fit killed several times after a checkpoint of its own ends like an unkilled fit."""
    for moment in (0.0, 0.1):
        earlier = set((tmp_path / "killed").glob("step-*"))
        child = FORKS.Process(target=complete, args=(tmp_path / "killed",))
        child.start()
        while child.is_alive() and set((tmp_path / "killed").glob("step-*")) <= earlier:
            child.join(0.01)
        child.join(moment)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    complete(tmp_path / "killed")
    complete(tmp_path / "whole")
    files = (tmp_path / name / "model.safetensors" for name in ("killed", "whole"))
    killed, whole = map(Path.read_bytes, files)
    assert killed == whole


def test_used_optimiser_is_refused(model, small_prior, prompts):
    optimizer = FusedOptimizer()
    quiet(model, FineTuned(small_prior), prompts, 1, optimizer=optimizer)
    with pytest.raises(ValueError, match="has done 1 steps already"):
        quiet(model, FineTuned(small_prior), prompts, 1, optimizer=optimizer)


def test_existing_checkpoint_is_not_overwritten(model, small_prior, prompts, tmp_path):
    short_fit(model, FineTuned(small_prior), prompts, checkpoint_folder=tmp_path)
    with pytest.raises(CheckpointError, match="pass resume=True to go on from it"):
        short_fit(model, FineTuned(small_prior), prompts, checkpoint_folder=tmp_path)


@pytest.mark.parametrize(
    "objective", ["leave-one-out", "trace", "forward-kl", "trajectory-balance"]
)
def test_non_finite_loss_keeps_the_last_good_parameters(objective, model, small_prior, prompts):
    """The loss, whose gradient is there all the same, is no number at the fourth step."""

    def bad_at(step):
        spoilt, losses = OBJECTIVES[objective](num_particles=8), []
        original = spoilt.loss_and_grads

        def loss_and_grads(*args):
            losses.append(original(*args))
            return math.nan if len(losses) == step else losses[-1]

        spoilt.loss_and_grads = loss_and_grads
        return spoilt

    guide, alone = FineTuned(small_prior), FineTuned(small_prior)
    with pytest.warns(UserWarning, match="fit stopped early at step 3: the loss is"):
        result = short_fit(model, guide, prompts, objective=bad_at(4))
    assert result.stopped_early is not None
    assert all(parameter.grad is None for parameter in guide.parameters())
    short_fit(model, alone, prompts, 3, objective=bad_at(0))
    assert torch.equal(parameters_of(guide), parameters_of(alone))


def test_a_plain_function_is_a_guide(model, small_prior, prompts, truth, tmp_path):
    """Unregistered guide of independent positions: trained, resumed, found in the fit's scope."""
    size = small_prior.vocab_size
    start = torch.zeros(2, size, dtype=torch.float64)
    small, guide = rows_of(size), rows_of(size, lambda: pyro.param("logits", start))
    for num_steps in (30, 60):
        options = {"optimizer": FusedOptimizer(options={"lr": 0.1}), "resume": True}
        result = quiet(small, guide, prompts, num_steps, checkpoint_folder=tmp_path, **options)
    with pyro.get_param_store().scope(result.parameters):
        prob = pyro.param("logits").softmax(-1)
    exact = math.e / (math.e + size - 1)
    assert torch.allclose(prob[:, 7], torch.tensor(exact, dtype=torch.float64), atol=0.03)
