"""A saved guide is loaded whole and for its own prior, or refused."""

import json
import math
from dataclasses import replace

import pytest
import torch

from experiments.shared.run_folder import RunFolder
from experiments.steer.arguments import Steer
from experiments.steer.decoding import lines_of, load_guide, numbers_of
from experiments.steer.training import save
from guides import GUIDES, FineTuned, NGram, Twisted
from guides.saved import save_guide
from inference import SAMPLERS, Posterior, importance_sampling
from model import AlignmentModel, TokenReward
from tests.model.tiny import tiny


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lora", "adapter_model.safetensors"),
        ("lora", "adapter_config.json"),
        ("twisted", "guide.safetensors"),
        ("fine-tuned", "model.safetensors"),
    ],
)
def test_a_guide_that_is_not_whole_is_one_line(name, file, tmp_path):
    prior = tiny()
    prompts = prior.encode(["a"])
    save_guide(tmp_path, GUIDES[name](prior, prompts), name, {}, prompts, temperature=1.0)
    (tmp_path / "digests.json").unlink()
    (tmp_path / file).write_bytes(b"none")
    with pytest.raises(SystemExit, match=r"damaged|cannot load the network"):
        load_guide(tmp_path, prior)
    (tmp_path / file).unlink()
    with pytest.raises(
        SystemExit, match=rf"has no {file}|{file} is missing|cannot load the network"
    ):
        load_guide(tmp_path, prior)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"guide": "none", "options": {}, "prompts": []}', '{"guide": 3}']
)
def test_a_damaged_guide_json_is_named(tmp_path, text):
    prior = tiny()
    save_guide(tmp_path, FineTuned(prior), "fine-tuned", {}, prior.encode(["a"]), temperature=1.0)
    assert load_guide(tmp_path, prior).num_trained_parameters()
    (tmp_path / "guide.json").write_text(text)
    with pytest.raises(SystemExit, match=r"guide\.json is not as it was saved"):
        load_guide(tmp_path, prior)
    (tmp_path / "digests.json").unlink()
    fault = "of a guide of the family 'none', expected one of" if "none" in text else "damaged"
    with pytest.raises(SystemExit, match=rf"guide\.json is {fault}"):
        load_guide(tmp_path, prior)
    (tmp_path / "guide.json").write_text(
        json.dumps({"guide": "fine-tuned", "options": {}, "prompts": ["a"]})
    )
    assert load_guide(tmp_path, prior).num_trained_parameters()


def test_another_temperature_than_that_of_the_training_is_told(tmp_path, recwarn):
    """A guide that `steer` saved."""
    prior, folder = tiny(), RunFolder(tmp_path)
    save(Steer(guide="n-gram", temperature=0.7), NGram(prior), prior.encode(["a"]), folder)
    with pytest.warns(UserWarning, match=r"prior of temperature 0\.7, not 1\.0: prior and post"):
        load_guide(folder.guide, prior)
    prior.temperature = 0.7
    load_guide(folder.guide, prior)
    assert not [each for each in recwarn if "temperature" in str(each.message)]


def test_a_guide_of_other_words_of_the_same_number_is_refused(tmp_path):
    prior, other = tiny(), tiny()
    other.vocabulary = "of other words"
    save_guide(tmp_path, Twisted(prior), "twisted", {}, prior.encode(["a"]), temperature=1.0)
    assert load_guide(tmp_path, tiny()).num_trained_parameters()
    with pytest.raises(SystemExit, match="tokenizer has other entries"):
        load_guide(tmp_path, other)


def test_a_guide_of_chats_is_saved_with_their_messages(tmp_path):
    """The mean field is built for its prompts, which a load encodes by the chat template again."""
    prior = tiny()
    prior.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    prompts = prior.encode([[{"role": "user", "content": "a b"}], "b"])
    save_guide(
        tmp_path, GUIDES["mean-field"](prior, prompts), "mean-field", {}, prompts, temperature=1.0
    )
    assert json.loads((tmp_path / "guide.json").read_text())["prompts"] == [
        [{"role": "user", "content": "a b"}],
        "b",
    ]
    guide = load_guide(tmp_path, prior)
    response = prior(prompts).sample((2,))
    assert guide.distribution(prompts).log_prob(response).isfinite().all()


@pytest.mark.parametrize("beta", [0.01, 10.0])
@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"rejection"}))
def test_numbers_from_few_effective_draws_have_a_warning(name, beta, prior, prompts):
    """Samplers of few effective draws alone; the others have enough, or exact weights.

    Annealed draws have many effective draws, the descendants of two first particles.
    """

    def reward(response, is_token):
        return (response * is_token).double().sum(-1) / 10

    model = AlignmentModel(prior, TokenReward(reward, prior), beta)
    posterior = SAMPLERS[name](model, prompts, num_samples=1024)
    sizes = posterior.diagnostics.get("effective_sample_size", posterior.effective_sample_size)
    is_poor = not posterior.exact and sizes.min().item() < 30
    assert is_poor <= (beta == 0.01)
    if beta == 0.01 and name == "annealed-smc":
        is_poor = True
    assert any("effective, fewer than 30" in each for each in posterior.warnings) == is_poor
    if name == "importance":
        assert is_poor == (beta == 0.01)


@pytest.mark.parametrize("num_accepted", [29, 30])
def test_few_accepted_draws_are_a_warning(num_accepted):
    """Intervals from a few accepted draws are too short."""
    log_weight = torch.full((256, 1), -torch.inf)
    log_weight[:num_accepted] = 0.0
    posterior = Posterior(torch.zeros(256, 1, 2).long(), log_weight, torch.zeros(1))
    few = "29 of 256 draws effective, fewer than 30"
    assert posterior.warnings == [few] * (num_accepted == 29)


@pytest.mark.parametrize("num_samples", [128, 256])
def test_chains_too_short_to_compare_are_a_warning(num_samples, prior, prompts):
    """32 chains of 2 or 4 steps after the warm-up."""
    reward = TokenReward(lambda response, is_token: is_token.double().sum(-1), prior)
    model = AlignmentModel(prior, reward, 10.0)
    posterior = SAMPLERS["metropolis-hastings"](model, prompts, num_samples=num_samples)
    too_few = [each for each in posterior.warnings if each.startswith("2 steps of each chain")]
    assert len(too_few) == (num_samples == 128)


def test_chains_that_disagree_are_a_warning():
    """32 chains that never move count as about 32 effective draws."""
    posterior = Posterior(torch.zeros(64, 1, 2).long(), torch.zeros(64, 1), None)
    sizes = {"effective_sample_size": torch.tensor([33.0, 40.0])}
    reasons = {1.05: "", 2.3: "R-hat 2.30, above 1.1", math.inf: "R-hat inf", math.nan: ""}
    for r_hat, reason in reasons.items():
        diagnostics = sizes | {"r_hat": torch.tensor([1.0, r_hat])}
        warnings = replace(posterior, diagnostics=diagnostics).warnings
        assert "".join(warnings).startswith(reason)
        assert len(warnings) == bool(reason)
    sizes = {"effective_sample_size": torch.tensor([math.nan, 20.0])}  # one prompt is unknown
    assert replace(posterior, diagnostics=sizes).warnings[0].startswith("20 of 64")


def test_expectations_of_draws_with_one_reward_are_marked(prior, prompts):
    model = AlignmentModel(prior, lambda prompts, response: torch.zeros(response.shape[:-1]), 1.0)
    response = prior(prompts).sample((8,))
    posterior = importance_sampling(model, prompts, num_samples=8)
    numbers = numbers_of(model, prompts, posterior, response)
    for exact, end in ((False, "0 ± 0 (?)"), (True, "0 ± 0")):
        lines = lines_of(numbers, exact=exact)
        assert lines[0] == "E[r] of the prior      0 ± 0 (?)"
        assert lines[1] == f"E[r] of the posterior  {end}"
