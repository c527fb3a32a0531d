"""The examples in the docstrings of the samplers run."""

from pyro.infer import MCMC

from inference import importance_sampling
from inference.samplers.metropolis_hastings import ResponseKernel
from inference.samplers.posterior import Posterior
from tests.guides.test_examples import example
from tests.inference.objectives.table import TWO, Target


def test_a_posterior_has_means_and_draws():
    model = Target(lambda prompts, response: response.double().sum(-1))
    names = {"model": model, "prompts": TWO, "importance_sampling": importance_sampling}
    exec(example(Posterior), names | {"reward": model.reward}, results := {})
    assert results["expected"].shape == (2,)
    assert results["responses"].shape == (8, 2, 2)
    assert (results["expected"] > 0).all()


def test_a_kernel_runs_in_plain_mcmc():
    names = {"model": Target(), "prompts": TWO, "MCMC": MCMC, "ResponseKernel": ResponseKernel}
    exec(example(ResponseKernel), names)
    assert names["mcmc"].get_samples()["response"].shape == (200, 64, 2, 2)
