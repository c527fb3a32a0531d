"""`--student`: a guide that starts from another language model, with the prior as its teacher."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from guides.saved import load_guide
from inference import Enumeration
from model import AlignmentModel
from model.prior.named_priors import load_prior
from tests.experiments.steer.small import ended_early

SIZES = {"steps": 40, "particles": 32, "samples": 256, "prior_draws": 256, "max_new_tokens": 2}
SHORT = Steer(prompts=("the film was", "the"), temperature=1.0, threads=1, **SIZES)


@pytest.fixture(scope="module")
def student_folder(prior, tmp_path_factory):
    """A network of one block with the prior's tokenizer, in Hugging Face format."""
    config = copy.deepcopy(prior.network.config)
    config.n_layer = 1
    folder = tmp_path_factory.mktemp("student")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    prior.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def args(grammar_folder, student_folder, tmp_path):
    return replace(SHORT, prior=str(grammar_folder), student=str(student_folder), out=tmp_path)


def test_student_nears_its_teacher_without_a_reward(args, student_folder, capsys):
    folder = main(replace(args, reward=()))
    printed = capsys.readouterr().out
    assert "nats between student and posterior" in printed
    record = json.loads(folder.measurements.read_text())
    assert "prior" not in record
    start, end = (record[name]["kl_guide_posterior"] for name in ("student", "guide"))
    settings = {"max_new_tokens": 2, "temperature": 1.0}
    teacher, student = (load_prior(path, **settings) for path in (args.prior, args.student))
    prompts = teacher.encode(list(args.prompts))
    truth = Enumeration(AlignmentModel(teacher, {}, 1.0), prompts)
    trained = load_guide(folder.guide, student)
    exact = truth.kl_guide_posterior(trained).mean().item()
    assert end["value"] == pytest.approx(exact, abs=5 * end["standard_error"])
    assert exact < start["value"] - 0.5
    network = AutoModelForCausalLM.from_pretrained(folder.guide)
    assert network.config.n_layer == 1
    card = (folder.guide / "README.md").read_text()
    assert f"student, from which the guide starts | {student_folder.name}" in card


def test_student_with_a_reward_resumes_bit_for_bit(args):
    args = replace(args, steps=5)
    whole = main(replace(args, out=args.out / "whole"))
    killed, _ = ended_early(replace(args, out=args.out / "killed"), OSError("no more"))
    resumed = main(replace(Steer(), resume=killed.path))
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(each.guide).state_dict() for each in (resumed, whole)
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_student_of_a_guide_from_scratch_is_refused(args):
    with pytest.raises(SystemExit, match="--student has no effect with --guide n-gram"):
        main(replace(args, guide="n-gram"))


def test_student_with_other_tokens_is_refused(args, prior, student_folder, tmp_path):
    folder = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(student_folder).save_pretrained(folder)
    tokenizer = copy.deepcopy(prior.tokenizer)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(SystemExit, match=r"--student .*and the prior differ in.*teacher's"):
        main(replace(args, student=str(folder)))
