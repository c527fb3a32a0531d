"""Verifiable rewards as conditioning: questions, findings, both worlds."""

import dataclasses
import json

import pytest

from experiments.shared.training import PENALISED, PURE
from experiments.verifiable.__main__ import Verifiable, main
from experiments.verifiable.questions import arithmetic, encoded, small_prior
from experiments.verifiable.report import drawn_findings, exact_findings
from experiments.verifiable.success import Success
from inference import Enumeration, Estimate
from model import Accuracy, AlignmentModel, TextReward
from tests.model.rewards.test_signatures import TEMPLATE
from tests.model.tokenizers import chat, language_model_of


def test_questions_are_different_sums_by_the_seed():
    questions = arithmetic(20, 9, seed=3)
    assert len(set(questions)) == 20
    for text, answer in questions:
        assert eval(text.removesuffix("=")) == int(answer) <= 9
    assert questions == arithmetic(20, 9, seed=3) != arithmetic(20, 9, seed=4)
    with pytest.raises(SystemExit, match="--questions 4: there are 3 sums up to 1"):
        arithmetic(4, 1, seed=0)


@pytest.mark.parametrize("takes_system", [True, False])
def test_the_instruction_reaches_a_chat_model_whatever_its_template_takes(takes_system):
    """A template like Gemma's raises an error at a message of the system."""
    tokenizer = chat("<bos> $A", pad_token="<end>")
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    tokenizer.chat_template = TEMPLATE if takes_system else refusal + TEMPLATE
    prior = language_model_of(tokenizer, max_new_tokens=3)
    prompts = encoded(prior, arithmetic(2, 9, seed=0))
    assert all("Answer with the number alone" in text for text in prompts.texts)
    roles = [[message["role"] for message in messages] for messages in prompts.messages]
    assert roles == [["system", "user"] if takes_system else ["user"]] * 2


@pytest.mark.slow
def test_small_prior_is_right_less_often_for_larger_answers():
    questions = arithmetic(3, 9, seed=0)
    prior = small_prior(questions)
    prompts = encoded(prior, questions)
    model = AlignmentModel(prior, TextReward(Accuracy(method="match"), prior), 1.0)
    truth = Enumeration(model, prompts)
    success = model.reward(prompts, truth.support)
    rates = (truth.log_prior.exp() * success).sum(0).tolist()
    assert rates == pytest.approx([0.7 - 0.05 * int(answer) for _, answer in questions], abs=0.05)


def numbers(rate, lost, error=0.01):
    estimates = [Estimate(value, error) for value in (rate, 0.2 + lost, 0.2, lost)]
    return Success(*estimates, {1: Estimate(rate, error)})


GOOD = {
    "prior": numbers(0.4, 0.0),
    PENALISED: numbers(0.9, 0.01),
    PURE: numbers(0.99, 0.5),
    "posterior": numbers(0.95, 0.0),
}


def held(exact, drawn=None, errors=(0.0, 0.0), odds=(0.0, 0.0)):
    drawn = {name: exact[name] for name in exact if name != "posterior"} if drawn is None else drawn
    every = exact_findings(exact, drawn, errors, odds) + drawn_findings(drawn)
    return [finding.held for finding in every]


def test_findings_fail_where_the_claim_does():
    assert all(held(GOOD))
    assert not held(GOOD, errors=(0.0, 1e-9))[0]
    assert not held(GOOD, odds=(1e-9, 0.0))[1]
    assert not held(GOOD, odds=(0.0, 1e-9))[1]
    assert not held(GOOD, errors=(1e-9, 0.0))[2]
    assert not held({**GOOD, "prior": numbers(0.4, -1e-9)})[3]
    assert not held({**GOOD, PENALISED: numbers(0.9, 0.06)})[4]
    assert not held({**GOOD, PURE: numbers(0.99, 0.04)})[5]
    assert not held({**GOOD, "posterior": numbers(0.3, 0.0)})[6]
    drawn = {name: GOOD[name] for name in ("prior", PENALISED, PURE)}
    assert not held(GOOD, {**drawn, PURE: numbers(0.94, 0.5)})[7]
    assert not held(GOOD, {**drawn, PENALISED: numbers(0.9, -0.05)})[8]
    assert not held(GOOD, {**drawn, PENALISED: numbers(0.42, 0.01)})[9]


@pytest.mark.slow
def test_script(capsys):
    findings = main(Verifiable(questions=2, steps=3, particles=8, draws=64, k=4))
    assert len(findings) == 12
    assert all(finding.held for finding in findings[:4])
    printed = capsys.readouterr().out
    assert "Exact, over all responses" in printed
    assert "pass@4" in printed


@pytest.mark.slow
def test_script_on_a_chat_model_and_a_data_set(tmp_path, capsys):
    tokenizer = chat("<bos> $A", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    language_model_of(tokenizer, max_new_tokens=3).save_pretrained(tmp_path / "prior")
    rows = [
        {"question": "a", "solution": "b"},
        {"question": "b c", "solution": "c"},
        {"question": "d", "solution": None},  # without an answer, and so left out
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = Verifiable(prior=str(tmp_path / "prior"), steps=2, particles=4, draws=512, k=2)
    files = {"dataset": str(tmp_path / "data.jsonl"), "column": "solution", "max_new_tokens": 3}
    files["prompt_column"] = "question"
    findings = main(dataclasses.replace(args, **files))
    assert len(findings) == 2
    assert "512 draws of each distribution to 2 questions" in capsys.readouterr().out
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "a", "solution": "no word"}))
    with pytest.raises(SystemExit, match=r"--prior: in 512 draws to each of 1 questions .* 0 alw"):
        main(dataclasses.replace(args, **files))
    (tmp_path / "data.jsonl").write_text(json.dumps(rows[-1]))
    with pytest.raises(SystemExit, match="--column: no question has an answer"):
        main(dataclasses.replace(args, **files))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(SystemExit, match="--k 32 exceeds --draws 16"):
        main(Verifiable(draws=16, k=32))
    with pytest.raises(SystemExit, match="--largest: the small prior"):
        main(Verifiable(largest=10))
