"""From preferences to a guide, small: printed and written results, and refusals."""

import json
from dataclasses import replace

import pytest

import experiments.rlhf.__main__ as rlhf
from experiments.rlhf.__main__ import encode_prompts, main, to_go_on, tune_guide
from experiments.rlhf.learning import Study, learn
from experiments.rlhf.studies import read_split
from experiments.shared.run_folder import RunFolder
from model.preferences import (
    AGGREGATIONS,
    MLPHead,
    Preference,
    PriorFeatures,
    RewardPosterior,
    read_preferences,
    write_preferences,
)
from model.prior.named_priors import load_prior
from tests.experiments.diverges import Diverges
from tests.experiments.rlhf.small import SMALL, prefer_longer
from tests.model.tokenizers import CHAT, chat, language_model_of


def run(args, out):
    """Run the script. Returns its new run folder."""
    main(replace(args, out=out))
    return RunFolder(max(out.glob("rlhf-*"), key=lambda path: path.stat().st_mtime_ns))


def saved_reward(folder):
    """The reward that a run leaves."""
    prior = load_prior("film-reviews", max_new_tokens=4, temperature=0.7, device="cpu")
    return RewardPosterior.load(folder.path / "reward", PriorFeatures(prior))


@pytest.mark.slow
def test_simulated_preferences_to_a_guide(tmp_path, capsys):
    folder = run(SMALL, tmp_path)
    printed = capsys.readouterr().out
    texts = ("Claim: gold", "The reward, next word", "all KL exact", "p = ", "A guide, twisted")
    for text in (*texts, "The claim"):
        assert text in printed
    runs = [json.loads(line) for line in (folder.path / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 2 * 2
    assert all(run["measured"][f"{name} fall"] >= 0 for run in runs for name in AGGREGATIONS)
    assert len(read_preferences(folder.path / "preferences.jsonl")) == 60
    assert folder.report.read_text().count("<svg") == 4
    assert (folder.guide / "guide.safetensors").is_file()
    assert json.loads((folder.guide / "guide.json").read_text())["guide"] == "twisted"
    assert (folder.path / "report.txt").read_text().strip() in printed
    card = (folder.guide / "README.md").read_text()
    for row in ("KL(q \\|\\| p*)", "| likelihood | ", "| preferences | simulated |", "| log Z | "):
        assert row in card
    for path in folder.path.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_file_of_preferences_to_a_guide(tmp_path, capsys):
    first = run(replace(SMALL, num_preferences=(40,), seeds=1, simulations=0), tmp_path / "first")
    capsys.readouterr()
    own = replace(SMALL, preferences=str(first.path / "preferences.jsonl"), inference="map")
    folder = run(own, tmp_path / "second")
    printed = capsys.readouterr().out
    assert "on 8 held out: accuracy" in printed
    assert "gold" not in printed
    assert saved_reward(folder)(["The film was great"]).shape == (1, 1)


@pytest.mark.slow
def test_a_file_of_rankings_to_a_guide(tmp_path, capsys):
    """Nectar's columns; a list that is held out is all its pairs."""
    answers = [{"answer": f" {'very ' * i}good.", "rank": i} for i in range(4)]
    rows = [{"prompt": f"The {noun} was", "answers": answers} for noun in ("film", "plot", "end")]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = replace(SMALL, preferences=str(path), components=2)
    folder = run(own, tmp_path / "runs")
    assert "from 2 rankings, on 1 held out: accuracy" in capsys.readouterr().out
    rewards = saved_reward(folder)(["The end was good.", "The end was very very very good."])
    assert rewards.mean(0).diff() < 0
    with pytest.raises(SystemExit, match=r"--flip and --tie-strength are for pairs, .*leave them"):
        main(replace(own, flip=0.1, out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_head_with_a_hidden_layer(tmp_path):
    args = replace(SMALL, head="mlp", inference="ensemble", reward_samples=2, seeds=1)
    reward = saved_reward(run(replace(args, num_preferences=(20,), simulations=0), tmp_path))
    assert isinstance(reward.head, MLPHead)
    assert reward(["The film was great"]).shape == (2, 1)


def test_files_of_preferences_without_use_are_refused(tmp_path):
    args = replace(SMALL, out=tmp_path, preferences=str(tmp_path / "pairs.jsonl"))
    with pytest.raises(SystemExit, match=r"--preferences: .*No such file"):
        main(args)
    pairs = [Preference("a", " b", " c", tie=True), Preference("a", " b", " d")]
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    for seed, part in ((0, "held-out preferences"), (1, "preferences to learn from")):
        with pytest.raises(SystemExit, match=f"--preferences: all 1 {part} are ties"):
            main(replace(args, seed=seed))
    assert not [*tmp_path.glob("rlhf*")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior": "none/of/these"}, "--prior none/of/these is no folder"),
        ({"encoder": "none/of/these"}, "--encoder none/of/these is no folder"),
        ({"prompt": "the " * 500}, "--prompt: prompt 0 has"),
        ({"word_prompt": "the " * 500}, "--word-prompt: prompt 0 has"),
        ({"tie_strength": 1.0}, "--tie-strength is for --preferences"),
        ({"draws": 10}, "--min-effective is 10, expected less than --draws, 10"),
        ({"guide": "fixed"}, "--guide fixed has nothing to train"),
        ({"guide": "tabular"}, "--guide tabular: 3072 token ids and 4 positions"),
    ],
)
def test_options_are_refused_before_there_is_a_run_folder(tmp_path, changed, message):
    with pytest.raises(SystemExit, match=f"^{message}"):
        main(replace(SMALL, out=tmp_path / "runs", **changed))
    assert not (tmp_path / "runs").exists()


def test_particles_and_steps_reach_the_fit(prior, tmp_path, monkeypatch):
    arguments = {}

    def recorded(*args, **kwargs):
        arguments.update(kwargs)
        return fit(*args, **kwargs)

    fit = rlhf.fit
    monkeypatch.setattr(rlhf, "fit", recorded)
    _, posterior = learn(SMALL, PriorFeatures(prior), prefer_longer(10), seed=0)
    args, prompts = replace(SMALL, particles=5, steps=3), prior.encode(["the film was"])
    tune_guide(args, prior, prompts, Study(posterior, [], []), RunFolder(tmp_path))
    assert arguments["objective"].num_particles == 5
    assert arguments["num_steps"] == len(RunFolder(tmp_path).metrics.read_text().splitlines()) == 3


def test_max_prompts_limits_the_prompts_of_a_file(prior, tmp_path):
    pairs = [Preference(f"the film was{' very' * i}", " good", " bad") for i in range(8)]
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    args = replace(SMALL, preferences=str(tmp_path / "pairs.jsonl"), max_prompts=3)
    split = read_split(args.preferences, args.held_out, args.seed)
    assert [len(part) for part in split] == [6, 2]
    assert len(encode_prompts(args, prior, split)) == 3
    assert len(encode_prompts(replace(args, max_prompts=16), prior, split)) == 6
    with pytest.raises(SystemExit, match=r"--preferences: .*column 'question' is missing"):
        main(replace(args, prompt_column="question"))


def test_chats_of_a_file_are_texts_by_the_template_of_the_prior(tmp_path):
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ ' <user> ' if m.role == 'user' else ' <assistant> ' }}"
        "{{ m.content }} <end>{% endfor %}{% if add_generation_prompt %} <assistant> {% endif %}"
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": "c"}],
            "rejected": [{"role": "assistant", "content": "d"}],
        }
        for question in ("a", "b", "a b")
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    args = replace(SMALL, preferences=str(tmp_path / "pairs.json"))
    prior = language_model_of(tokenizer, max_new_tokens=2)
    train, test = read_split(args.preferences, 0.3, 0, tokenizer)
    prompts = encode_prompts(args, prior, (train, test))
    questions = [preference.prompt.split()[1:-2] for preference in train]
    expected = [[2, *map(CHAT.index, words), 1, 3] for words in questions]
    assert prompts.rows() == expected, "the tokenizer's beginning is no part of this template"
    assert prompts.messages[0] == train[0].chat
    assert train[0].texts == (f"{train[0].prompt}c", f"{train[0].prompt}d")


def test_an_interrupted_run_hints_at_its_reward(tmp_path):
    folder = RunFolder(tmp_path)
    assert not to_go_on(folder)
    (tmp_path / "reward").mkdir()
    assert to_go_on(folder).endswith(f"steer --reward preferences:{tmp_path / 'reward'}")


@pytest.mark.filterwarnings("ignore:fit stopped early")
def test_a_stopped_fit_is_part_of_the_table(monkeypatch, tmp_path, prior):
    monkeypatch.setattr(rlhf, "LeaveOneOut_ELBO", Diverges)
    args, prompts = replace(SMALL, samples=4, steps=1), prior.encode(["the film was"])
    _, posterior = learn(args, PriorFeatures(prior), prefer_longer(12), seed=0)
    study = Study(posterior, [], [])
    table = tune_guide(args, prior, prompts, study, RunFolder(tmp_path))
    assert "The fit stopped early at step 0: the loss is nan" in table
