"""A step of SVI beside the sum of its parts, as it is measured and printed."""

import pyro
import pytest
import torch

from experiments.step_parts.__main__ import StepParts, main
from experiments.step_parts.parts import (
    PARTS,
    STEP,
    SUM,
    Parts,
    new_step,
    with_sum,
)
from guides import LoRA
from inference.diagnostics.memory import peak_memory
from model import LanguageModel
from model.prior.named_priors import load_prior

SMALL = {
    "prompts": ("The film was", "The"),
    "particles": 2,
    "max_new_tokens": 3,
    "rounds": 1,
    "warm_up": 0,
}


@pytest.fixture(scope="module")
def prior():
    return load_prior(
        "film-reviews", max_new_tokens=3, temperature=1.0, dtype="float64", device="cpu"
    )


@pytest.fixture
def guide(prior):
    guide = LoRA(prior)
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    return guide


@pytest.fixture
def parts(prior, guide):
    return Parts(prior, guide, prior.encode(SMALL["prompts"]), num_particles=2)


def test_parts_score_as_the_step_does(parts, prior, guide):
    prompts = prior.encode(SMALL["prompts"])
    response = parts.response.view(2, 2, 3)
    for network, distribution in (
        (parts.prior, prior(prompts)),
        (parts.guide, guide.distribution(prompts)),
    ):
        expected = distribution.log_prob(response)
        assert torch.allclose(parts.log_prob(network).view(2, 2).double(), expected, atol=1e-4)
    parts.score_and_go_back()
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_generate_goes_on_to_the_last_token(prior):
    ends_soon = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=3, end_ids=range(3000))
    parts = Parts(ends_soon, LoRA(ends_soon), ends_soon.encode(SMALL["prompts"]), num_particles=2)
    assert parts.response.shape == (4, 3)
    assert bool((parts.response >= 3000).all())


def test_a_step_moves_the_guide_and_records_its_longest_response(prior, guide):
    prompts = prior.encode(SMALL["prompts"])
    step, lengths = new_step(prior, guide, prompts, beta=0.1, num_particles=2)
    before = [parameter.clone() for parameter in guide.trained().values()]
    step()
    moved = [(a - b).abs().max() for a, b in zip(guide.trained().values(), before, strict=True)]
    assert 0 < max(moved) < 1e-8
    assert len(lengths) == 1
    assert 1 <= lengths[0] <= 3
    assert not list(pyro.get_param_store().keys())


def test_the_sum_is_over_the_parts():
    parts = [[(1.0, 2.0)], [(3.0, 4.0)], [(5.0, 6.0)]]
    times = dict(zip(PARTS, parts, strict=True)) | {STEP: [(7.0, 8.0)]}
    assert with_sum(times)[SUM] == [(9.0, 12.0)]


def test_table(capsys):
    main(StepParts(**SMALL))
    printed = capsys.readouterr().out
    assert all(
        name in printed
        for name in (*PARTS, SUM, STEP, "tokens decoded: 3 by generate", "peak memory")
    )
    assert 100 < peak_memory() < 100_000  # MB


@pytest.mark.parametrize("guide", ["n-gram", "fixed", "soft-prompt"])
def test_a_guide_without_a_network_to_train_is_refused(guide):
    with pytest.raises(SystemExit, match=r"--guide is .*, expected one of: lora, fine-tuned"):
        StepParts(**SMALL, guide=guide)


@pytest.mark.parametrize(("most", "held"), [(0.0, False), (1e9, True)])
def test_the_claim_has_a_verdict(most, held, monkeypatch):
    monkeypatch.setattr("experiments.step_parts.__main__.MOST", most)
    assert [finding.held for finding in main(StepParts(**SMALL))] == [held]
