"""Prompts of a run from a data set: chats with columns, a measured subset, resume, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.shared.metrics_file import read_metrics
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from experiments.steer.prompts import chat_notes, load_prompts, measured_prompts
from model.prior.named_priors import load_prior
from tests.experiments.steer.small import SHORT, ended_early
from tests.model.tokenizers import chat, language_model_of

TEMPLATE = "<bos>{% for m in messages %} <user> {{ m.content }} <end>{% endfor %} <assistant>"
TEXTS = [" ".join("abcd"[: 1 + n % 4]) for n in range(20)]
ROWS = [{"question": [{"role": "user", "content": text}], "answer": text[-1]} for text in TEXTS]
REWARD = """
def says(completions, answer, **columns):
    return [float(right in one[0]["content"]) for one, right in zip(completions, answer)]
"""


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("chat")
    language_model_of(tokenizer, max_new_tokens=2, end_ids=[1]).save_pretrained(folder)
    return folder


@pytest.fixture
def args(chat_folder, tmp_path):
    (tmp_path / "rewards.py").write_text(REWARD)
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    reward = (f"function:{tmp_path / 'rewards.py'}:says",)
    data = {"prior": str(chat_folder), "dataset": str(path), "prompt_column": "question"}
    sizes = {"steps": 4, "checkpoint_every": 2, "max_new_tokens": 2, "temperature": 1.0}
    args = replace(SHORT, guide="fine-tuned", prompts=Steer.prompts, reward=reward, beta=1.0)
    return replace(args, out=tmp_path, **data, **sizes)


def test_run_on_a_data_set_of_chats_measures_a_subset_and_says_so(args, capsys, monkeypatch):
    folder = main(replace(args, system="d d", limit=18, measured_prompts=3))
    printed = capsys.readouterr().out
    assert "18 prompts of 9 to 12 tokens, with columns answer" in printed
    assert "<bos> <user> d d <end> <user> a" in printed
    note = "Measured on 3 of 18 prompts, a random subset by the seed."
    assert note in printed
    assert note in folder.report.read_text()
    metrics = read_metrics(folder.metrics)
    assert [record["num_responses"] for record in metrics] == [24, 48, 72, 96]
    saved = json.loads(folder.arguments.read_text())
    assert len(saved["inputs"]["--dataset {run}/../questions.jsonl"]["questions.jsonl"]) == 64


def test_sampler_takes_the_measured_prompts(args, capsys):
    folder = main(replace(args, sample="importance", budget=16, measured_prompts=3))
    assert "Measured on 3 of 20 prompts" in capsys.readouterr().out
    draws = (folder.path / "draws.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt"] for line in draws}) <= 3
    assert len(draws) == 3 * 256


def test_measured_prompts_depend_on_the_seed_and_keep_their_columns(args, chat_folder):
    prompts = load_prompts(args, load_prior(str(chat_folder), **args.loading)).every
    first, second, other = (
        measured_prompts(each, prompts) for each in (args, args, replace(args, seed=1))
    )
    assert len(first) == 8
    assert first.positions == second.positions != other.positions
    assert first.columns["answer"] == tuple(ROWS[n]["answer"] for n in first.positions)
    assert measured_prompts(replace(args, measured_prompts=20), prompts) is prompts


def test_long_prompts_are_left_out_with_a_note(args, chat_folder):
    prior = load_prior(str(chat_folder), **args.loading)
    prompts = load_prompts(replace(args, max_prompt_tokens=6, measured_prompts=20), prior)
    assert prompts.notes == ["Left out: 10 of 20 prompts, of more than 6 tokens."]
    assert prompts.every.columns["answer"] == ("a", "b") * 5
    assert prompts.every is prompts.measured
    with pytest.raises(SystemExit, match="--dataset: all 20 prompts have more than 4 tokens, the"):
        load_prompts(replace(args, max_prompt_tokens=4), prior)


def test_notes_say_how_a_chat_model_reads_the_prompts(args, chat_folder):
    prior = load_prior(str(chat_folder), **args.loading)
    question = [{"role": "user", "content": "a"}]
    answered = [*question, {"role": "assistant", "content": "b"}]
    notes = {}
    for name, prompts in {
        "chats": [question, question],
        "answered": [question, answered],
        "texts": ["a", "b"],
    }.items():
        rows = [json.dumps({"question": prompt}) for prompt in prompts]
        Path(args.dataset).write_text("\n".join(rows))
        notes[name] = load_prompts(args, prior).notes
    assert notes["chats"] == []
    assert [note[:49] for note in notes["answered"]] == [
        "1 of 2 chats end with a message of the assistant,"
    ]
    assert [note[:56] for note in notes["texts"]] == [
        "The prompts are texts, read without the chat template of"
    ]
    (note,) = chat_notes(prior.encode([question, "a", "b"]), prior)
    assert note.startswith("2 of 3 prompts are texts, read without the chat template of the prior")
    assert load_prompts(replace(args, system="d"), prior).notes == []
    assert load_prompts(replace(args, dataset=None), prior).notes == notes["texts"]
    prior.tokenizer.chat_template += "{{ strftime_now('%d') }}"
    (note,) = load_prompts(replace(args, system="d"), prior).notes
    assert note.startswith("The chat template of the prior reads the date: prompts of another day")


def test_resume_on_a_data_set_ends_where_an_unbroken_run_ends(args, tmp_path):
    killed, _ = ended_early(replace(args, out=tmp_path / "killed"), MemoryError())
    whole, resumed = main(args), main(Steer(resume=killed.path))
    ours, theirs = (
        [record["elbo"] for record in read_metrics(each.metrics)] for each in (resumed, whole)
    )
    assert ours == theirs
    with open(args.dataset, "a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(SystemExit, match=r"--dataset .*questions.jsonl changed since the run"):
        main(Steer(resume=killed.path, steps=6))


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        ({}, '{"question": "a"}', r"--dataset: .*jsonl, line 21: column 'answer' is missing"),
        ({"prompt_column": "prompt"}, "", r"--dataset: .*line 1: column 'prompt' is missing"),
        ({"dataset_split": "test"}, "", r"--dataset: split is 'test'"),
        (
            {},
            json.dumps({"question": "a " * 80, "answer": "a"}),
            r"line 21: column 'question' has 81",
        ),
    ],
)
def test_refusal_names_option_file_line_and_column(args, change, line, message):
    with open(args.dataset, "a") as file:
        file.write(line)
    with pytest.raises(SystemExit, match=message):
        main(replace(args, **change))
