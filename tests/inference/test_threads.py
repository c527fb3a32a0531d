"""Two threads: one waits for the other, and each result is the same as alone, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from torch.overrides import TorchFunctionMode

from guides import FineTuned, Fixed, Tabular
from inference import (
    SAMPLERS,
    Enumeration,
    LeaveOneOut_ELBO,
    diagnose,
    importance_sampling,
    joint_at,
    random_state,
    sample_prior,
)
from inference.samplers.log_z_bounds import log_z_bounds
from model import AlignmentModel, LikelihoodError, TextReward
from model.common import thread_lock
from model.common.thread_lock import THREAD_LOCK
from tests.inference.conftest import parameters_of, quiet


def run_together(*functions):
    """Results of functions in simultaneous threads; the error of a thread is raised here."""
    barrier, results = threading.Barrier(len(functions)), {}

    def run(index, function):
        barrier.wait()
        try:
            results[index] = function()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[index] for index in range(len(functions))]


def trained(make, model, prior, prompts, seed):
    def run():
        guide = make()
        quiet(model, guide, prompts, 5, objective=LeaveOneOut_ELBO(4), seed=seed)
        return parameters_of(guide)

    return run


def test_fits_in_threads_are_those_alone(model, small_prior, prompts):
    runs = [
        trained(lambda: FineTuned(small_prior), model, small_prior, prompts, 0),
        trained(lambda: Tabular(small_prior, prompts), model, small_prior, prompts, 1),
        trained(lambda: FineTuned(small_prior), model, small_prior, prompts, 2),
    ]
    alone = [run() for run in runs]
    assert all(torch.equal(*pair) for pair in zip(run_together(*runs), alone, strict=True))
    assert len(pyro.get_param_store()) == 0


def test_measuring_and_sampling_beside_a_fit(model, small_prior, prompts):
    other = Tabular(small_prior, prompts)
    truth = Enumeration(model, prompts)
    response = truth.support[:3].expand(3, len(prompts), -1)
    fitted = trained(lambda: FineTuned(small_prior), model, small_prior, prompts, 0)

    def measure():
        for _ in range(3):
            log_joint = joint_at(model, prompts, response).log_joint
            assert torch.allclose(log_joint, truth.log_joint[:3], rtol=0, atol=1e-10)
            assert torch.equal(Enumeration(model, prompts).log_z, truth.log_z)
        return truth.kl_guide_posterior(other)

    def sample():
        results = []
        for seed in range(3):
            with random_state.isolated(seed):
                results.append(diagnose(model, other, prompts, num_samples=8).elbo.value)
            importance_sampling(model, prompts, num_samples=8).resample(4)
        return results

    alone = fitted(), measure(), sample()
    together = run_together(fitted, measure, sample)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])
    assert together[2] == alone[2]


class EachDraw(TorchFunctionMode):
    """Context that records whether this thread holds the lock at each use of a generator."""

    def __init__(self):
        super().__init__()
        self.locked = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        before = random_state.capture()
        result = function(*args, **kwargs or {})
        if not random_state.is_still(before):
            self.locked.append(THREAD_LOCK.is_owned())
        return result


@pytest.mark.parametrize("name", [*SAMPLERS, "diagnose", "sample_prior", "log_z_bounds"])
def test_every_draw_holds_the_lock(name, model, small_prior, prompts, truth):
    """A draw without the lock would take the numbers of a fit in another thread."""
    others = {
        "diagnose": lambda: diagnose(model, Fixed(small_prior), prompts, num_samples=8),
        "sample_prior": lambda: sample_prior(model, prompts, 8, independent=True),
        "log_z_bounds": lambda: log_z_bounds(model, prompts, truth.support[:2], num_samples=8),
    }
    with EachDraw() as draws:
        if name in others:
            others[name]()
        else:
            SAMPLERS[name](model, prompts, num_samples=128).resample(4)
    assert draws.locked
    assert all(draws.locked)


def test_a_thread_for_which_a_reward_waits_says_that_neither_ends(
    monkeypatch, model, small_prior, prompts
):
    """The fit waits for the reward, the reward for the thread, and the thread for the fit."""
    monkeypatch.setattr(thread_lock, "PATIENCE", 0.05)
    with ThreadPoolExecutor(1) as pool:

        def waits(texts):
            draws = pool.submit(sample_prior, model, prompts, 8, independent=True)
            return [1.0 if draws.exception(timeout=1.0) is None else 0.0] * len(texts)

        other = AlignmentModel(small_prior, TextReward(waits, small_prior), beta=1.0)
        with (
            pytest.warns(UserWarning, match="neither ends"),
            pytest.raises(LikelihoodError, match="TimeoutError"),
        ):
            quiet(other, FineTuned(small_prior), prompts, 1)


@pytest.mark.parametrize("step", [1, 3])
def test_lock_is_free_after_a_fit_that_failed(step, model, small_prior, prompts):
    def fails(metrics):
        if metrics["step"] == step:
            raise KeyError("no")

    with pytest.raises(KeyError):
        quiet(model, FineTuned(small_prior), prompts, 4, on_step=fails)
    run_together(trained(lambda: FineTuned(small_prior), model, small_prior, prompts, 0))
