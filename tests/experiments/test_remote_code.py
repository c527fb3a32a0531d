"""Code that comes with a network runs in no script unless the command line says so."""

import io
import json
from dataclasses import asdict, replace

import pytest
import torch

from experiments.rlhf.options import RLHF
from experiments.steer import __main__ as steer
from experiments.steer.arguments import Steer
from experiments.steer.resuming import restored
from model.preferences import EncoderFeatures, LinearHead, RewardPosterior, StandardisedFeatures
from model.registry import REWARDS
from tests.model.networks.test_loading import CODE, configured, saved
from tests.model.tiny import gpt2, tiny


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path, marker, monkeypatch):
    """A network with code, and a user who says yes to everything."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    return with_code(saved(gpt2(), tmp_path / "network"), marker)


def with_code(folder, marker):
    (folder / "custom.py").write_text(CODE.format(base="GPT2Config", marker=str(marker)))
    return configured(folder, model_type="custom", auto_map={"AutoConfig": "custom.Custom"})


@pytest.fixture
def reward(tmp_path, marker, monkeypatch):
    """A reward that was learned on an encoder, which has got code since."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    encoder = saved(gpt2(), tmp_path / "encoder")
    features = StandardisedFeatures.fit(
        EncoderFeatures.from_pretrained(encoder, device="cpu"), ["a b", "c", "b b a"]
    )
    RewardPosterior(
        LinearHead(features.num_features), features, torch.ones(2, features.num_features)
    ).save(tmp_path / "reward")
    with_code(encoder, marker)
    return tmp_path / "reward"


@pytest.mark.parametrize("name", [name for name, entry in REWARDS.items() if entry.loads_network])
def test_code_of_a_reward_runs_where_it_is_allowed_and_nowhere_else(name, folder, reward, marker):
    where = {"preferences": reward}.get(name, folder)
    label = ":0" if name.startswith("classifier") else ""
    args = Steer(reward=(f"{name}:{where}{label}",))
    with pytest.raises(SystemExit, match="--trust-remote-code"):
        args.choices[0].reward(tiny())
    assert not marker.exists()
    with pytest.raises(SystemExit):  # the code runs, and makes no network
        replace(args, trust_remote_code=True).choices[0].reward(tiny())
    assert marker.exists()


@pytest.mark.parametrize("script", ["steer", "rlhf", "rlhf --encoder"])
def test_code_of_a_prior_or_an_encoder_runs_where_it_is_allowed_and_nowhere_else(
    script, folder, marker
):
    def load(trust):
        if script == "steer":
            return steer.load(Steer(prior=str(folder), trust_remote_code=trust))
        place = {"encoder": str(folder)} if "encoder" in script else {"prior": str(folder)}
        return RLHF(**place, trust_remote_code=trust).load()

    with pytest.raises((SystemExit, ValueError), match="--trust-remote-code"):
        load(False)
    assert not marker.exists()
    with pytest.raises((SystemExit, ValueError)):
        load(True)
    assert marker.exists()


def test_a_run_folder_does_not_say_that_code_may_run(tmp_path):
    record = json.loads(json.dumps(asdict(Steer(trust_remote_code=True)), default=str))
    assert record["trust_remote_code"]
    assert not restored(Steer(resume=tmp_path), record).trust_remote_code
    assert restored(Steer(resume=tmp_path, trust_remote_code=True), record).trust_remote_code
