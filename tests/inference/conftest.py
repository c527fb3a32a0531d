import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from guides import FineTuned
from inference import Enumeration, fit
from model import AlignmentModel, TextReward, grammar_prior, vader_sentiment


@pytest.fixture(scope="session")
def small_prior():
    """Prior of two tokens a response: 91 responses a prompt, few enough for sums over all pairs."""
    return grammar_prior(max_new_tokens=2)


@pytest.fixture(scope="session")
def prompts(small_prior):
    return small_prior.encode(["the film was", "the"])


@pytest.fixture(scope="session")
def model(small_prior):
    return AlignmentModel(
        small_prior, TextReward(vader_sentiment, small_prior, upper_bound=1.0), beta=0.3
    )


@pytest.fixture(scope="session")
def truth(model, prompts):
    return Enumeration(model, prompts)


@pytest.fixture
def guide(small_prior):
    """Guide away from prior and posterior."""
    return moved_guide(small_prior, 0.02)


def moved_guide(prior, scale):
    """Copy of the prior with noise on the weights, the same noise at every call."""
    guide = FineTuned(prior)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += scale * torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
    return guide


def killed_and_resumed(run, step):
    """Result of `run`, which passes its options on to `fit`, killed after a step and resumed."""

    def kill(metrics):
        if metrics["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_step=kill)
    return run(resume=True)


def quiet(model, guide, prompts, num_steps=None, **options):
    """Result of a fit without a progress bar."""
    return fit(model, guide, prompts, num_steps=num_steps, progress=False, **options)


def parameters_of(guide):
    """All parameters of a module in one row, as they are now."""
    return parameters_to_vector(guide.parameters()).detach()


def rows_of(size, logits=None):
    """A program that draws two independent tokens for each prompt; as a model, one has a reward."""

    def program(prompts):
        of_tokens = torch.zeros(2, size) if logits is None else logits()
        rows = dist.Categorical(logits=of_tokens).to_event(1)
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", rows.expand([len(prompts)]))
            if logits is None:
                pyro.factor("reward", (response == 7).double().sum(-1))

    return program
