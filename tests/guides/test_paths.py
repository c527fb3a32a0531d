"""No saved file names a path of this machine, and no loader needs such a path."""

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from guides import GUIDES
from model import LanguageModel, RewardPosterior
from model.networks.source import PretrainedError
from model.preferences import EncoderFeatures, LinearHead, StandardisedFeatures, saved_features
from tests.model.tiny import tiny


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny(dtype=torch.float32).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder: Path, **options: object) -> LanguageModel:
    return LanguageModel.from_pretrained(folder, max_new_tokens=3, device="cpu", **options)


def check_no_paths(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert str(folder.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_moves_to_another_machine(name: str, base: Path, tmp_path: Path) -> None:
    prior = load(base)
    prompts = prior.encode(["a", "b c"])
    torch.manual_seed(0)
    guide = GUIDES[name](prior, prompts)
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    guide.save_pretrained(tmp_path / "guide")
    check_no_paths(tmp_path / "guide")
    base.rename(tmp_path / "moved")
    (tmp_path / "guide").rename(tmp_path / "too")
    again = GUIDES[name](load(tmp_path / "moved"), prompts)
    again.load_pretrained(tmp_path / "too")
    value = prior(prompts).sample((4,))
    assert torch.equal(
        again.distribution(prompts).log_prob(value), guide.distribution(prompts).log_prob(value)
    )


def test_a_prior_with_an_adapter_moves_too(base: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "adapter")
    prior = load(tmp_path / "adapter")  # whose tokenizer is the base's
    prior.save_pretrained(tmp_path / "saved")
    check_no_paths(tmp_path / "saved")
    base.rename(tmp_path / "moved")
    with pytest.raises(PretrainedError, match=r"there is no folder .*base"):
        load(tmp_path / "adapter")
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(
        load(tmp_path / "saved", base=tmp_path / "moved").network(ids).logits,
        prior.network(ids).logits,
    )


def test_a_reward_moves_with_its_encoder(base: Path, tmp_path: Path) -> None:
    features = StandardisedFeatures.fit(
        EncoderFeatures.from_pretrained(base, device="cpu"), ["a b", "c", "b b a"]
    )
    reward = RewardPosterior(
        LinearHead(features.num_features), features, torch.randn(2, features.num_features).double()
    )
    (tmp_path / "here").mkdir()
    reward.save(tmp_path / "here" / "reward")
    check_no_paths(tmp_path / "here" / "reward")
    (tmp_path / "there").mkdir()
    for name in ("here/reward", "base"):
        (tmp_path / name).rename(tmp_path / "there" / name.split("/")[-1])
    (tmp_path / "there" / "here").mkdir()
    (tmp_path / "there" / "reward").rename(tmp_path / "there" / "here" / "reward")
    folder = tmp_path / "there" / "here" / "reward"
    again = RewardPosterior.load(folder, saved_features(folder, tiny()))
    assert torch.allclose(again(["a b", "c c"]), reward(["a b", "c c"]), rtol=0, atol=1e-5)
