"""The examples in the docstrings of the guides run."""

import copy
import inspect
import re
from functools import partial
from textwrap import dedent

import torch

from guides import FineTuned, Guide
from inference import Enumeration, fit
from model import AlignmentModel, LanguageModel


def example(documented):
    """Indented lines of a docstring before its sections."""
    text = re.split(r"\n(?:Args|Attributes):", inspect.getdoc(documented))[0]
    return dedent("\n".join(re.findall(r"^(?: {4}.*)?$", text, re.MULTILINE)))


def assert_trains(guide, prior, prompts):
    """Starts at the prior and leaves the prior in a step."""
    model = AlignmentModel(prior, lambda _, x: x[..., 0] * 1.0, beta=1.0)
    truth = Enumeration(model, prompts)
    assert truth.kl_guide_prior(guide).max() < 1e-12
    fit(model, guide, prompts, num_steps=1, progress=False)
    assert truth.kl_guide_prior(guide).min() > 0


def test_guide_of_the_base_class_trains(prior, prompts):
    names = {"Guide": Guide, "copy": copy}
    exec(example(Guide), names)
    assert_trains(names["Copy"](prior), prior, prompts)


def test_example_of_fine_tuning_writes_a_checkpoint(prior, prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = AlignmentModel(prior, lambda _, x: x[..., 0] * 1.0, beta=1.0)
    names = {"FineTuned": FineTuned, "prior": prior, "prompts": prompts, "model": model}
    names["fit"] = partial(fit, progress=False)
    exec(example(FineTuned).replace("500", "1"), names)
    loaded = LanguageModel.from_pretrained("tuned", max_new_tokens=prior.max_new_tokens)
    response = prior(prompts).sample((3,))
    expected = names["guide"].distribution(prompts).log_prob(response)
    assert torch.allclose(loaded(prompts).log_prob(response).double(), expected, atol=1e-4)
