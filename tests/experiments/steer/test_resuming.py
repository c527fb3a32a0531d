"""Resume of a run: same arguments and files, others refused by name, code named before it runs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from experiments.shared.command_line import run_script
from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from experiments.steer.resuming import check_given, read_record, resume_command
from inference.svi.checkpoint.folder import FolderInUseError, locked
from model.common.files import check_digests
from model.common.input_files import code_files
from tests.experiments.steer import small
from tests.model.tiny import WORDS, tiny, tiny_tokenizer

REWARD = """
from kinder import weight
print("the file of the reward runs")
def kindness(texts):
    return [weight * text.count("a") for text in texts]
"""
SHORT = replace(small.SHORT, steps=2, checkpoint_every=1)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Run in a separate folder, with a prior, prompts and rewards in files."""
    place = tmp_path_factory.mktemp("start")
    tiny(dtype=torch.float32).save_pretrained(place / "prior")
    (place / "prompts.txt").write_text("a b\nb\n")
    (place / "rewards.py").write_text(REWARD)
    (place / "kinder.py").write_text("from kindest import base\nweight = base + 0.25\n")
    (place / "kindest.py").write_text("base = 0.25\n")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": len(WORDS)}
    config = BertConfig(num_hidden_layers=1, num_attention_heads=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(place / "classifier")
    tiny_tokenizer(pad_token="<pad>").save_pretrained(place / "classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        rewards = ("function:rewards.py:kindness", "0.1*classifier:classifier:LABEL_0")
        args = replace(SHORT, prior="prior", reward=rewards, out=place / "runs")
        main(replace(args, prompts_file=place / "prompts.txt"))
    return place


@pytest.fixture
def run(start, tmp_path, monkeypatch):
    """Copy of the run and of its inputs at another place."""
    shutil.copytree(start, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    (folder,) = (tmp_path / "copy" / "runs").iterdir()
    return RunFolder(folder)


FUNCTION = "--reward function:rewards.py:kindness: "
FLIPPED = "the last bit of the file is another, at the same size"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("rewards.py", REWARD + " ", f"{FUNCTION}rewards.py changed"),
        ("kinder.py", "weight = 1", f"{FUNCTION}kinder.py, kindest.py changed"),
        ("kindest.py", "base = 1", f"{FUNCTION}kindest.py changed"),
        ("kinder.py", None, f"{FUNCTION}kinder.py, kindest.py changed"),
        ("prompts.txt", "a b\nc\n", "prompts.txt: prompts.txt changed"),
        ("prior/model.safetensors", "0", "--prior prior: model.safetensors changed"),
        ("prior/config.json", "{}", "--prior prior: config.json changed"),
        ("prior/added_tokens.json", "{}", "--prior prior: added_tokens.json changed"),
        ("classifier/model.safetensors", FLIPPED, "classifier:LABEL_0: model.safetensors changed"),
    ],
)
def test_files_that_changed_are_refused_by_name_before_they_run(run, file, text, message, capsys):
    if text is FLIPPED:
        *data, last = Path(file).read_bytes()
        Path(file).write_bytes(bytes([*data, last ^ 1]))
    elif text is None:
        Path(file).unlink()
    else:
        Path(file).write_text(text)
    with pytest.raises(SystemExit, match=re.escape(f"{message} since the run was made")):
        main(Steer(resume=run.path))
    assert "the file of the reward runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("rewards.py", r"--reward function:rewards\.py:kindness"),
        ("prior", "--prior prior"),
        (".", "--prior prior"),
    ],
)
def test_files_that_are_gone_are_not_said_to_be_changed(run, gone, message, tmp_path, monkeypatch):
    if gone == ".":
        monkeypatch.chdir(tmp_path)
    else:
        Path(gone).rename("elsewhere")
    with pytest.raises(
        SystemExit,
        match=rf"{message}: the files that the run was made with are missing, .* from {Path.cwd()}",
    ):
        main(Steer(resume=run.path))


def test_code_is_named_before_it_runs(run, capsys):
    main(Steer(resume=run.path))
    lines = capsys.readouterr().out.splitlines()
    ran = lines.index("the file of the reward runs")
    for end in (
        "kindness: runs kinder.py, kindest.py, rewards.py",
        "names --prior prior: loads prior",
        "names --reward 0.1*classifier:classifier:LABEL_0: loads classifier",
    ):
        assert any(line.endswith(end) for line in lines[:ran]), end


@pytest.mark.parametrize(
    ("option", "given", "own"),
    [
        ("--beta", "0.2", "0.1"),
        ("--steps", "1", "2"),
        ("--particles", "32", "4"),
        ("--prior", "film-reviews", "prior"),
        ("--n-gram.n", "4", ""),
        ("--guide", "fine-tuned", "n-gram"),
        ("--threads", "2", "1"),
        ("--seed", "1", "0"),
    ],
)
def test_other_arguments_beside_resume_are_refused(run, option, given, own, capsys):
    """A default value is refused too, if the run has another value."""
    with pytest.raises(SystemExit) as refused:
        run_script(main, Steer, ["--resume", str(run.path), option, given])
    assert refused.value.code == 2
    message = f"{option} is given with --resume: {given}, where the run has {own}"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget", "larger", "smaller"), [("responses", 24, 8), ("time", "1h", "1m")]
)
def test_a_resume_takes_a_larger_budget_of_the_same_kind(budget, larger, smaller):
    own = Steer(**{budget: {"responses": 16, "time": "90s"}[budget]})
    check_given(Steer(**{budget: larger}), own, Steer())
    for other in (Steer(**{budget: smaller}), Steer(**{budget: larger, "beta": 0.7})):
        with pytest.raises(SystemExit, match="is given with --resume"):
            check_given(other, own, Steer())
    with pytest.raises(SystemExit, match=f"--{budget} is given with --resume: .* run has None"):
        check_given(Steer(**{budget: larger}), Steer(), Steer())


def test_shards_on_one_process_are_refused_with_the_command_for_several(run):
    command = f"torchrun --nproc-per-node 2 -m experiments.steer --resume {run.path} --shard both"
    with pytest.raises(SystemExit, match=f"start with `{re.escape(command)}`"):
        main(Steer(resume=run.path, shard="both"))


def test_arguments_that_are_the_runs_own_and_more_steps_are_taken(run, capsys):
    words = ["--resume", str(run.path), "--beta", "0.1", "--particles", "4", "--steps", "3"]
    with pytest.raises(SystemExit) as end:
        run_script(main, Steer, words)
    assert end.value.code == 0, capsys.readouterr().err
    assert [record["step"] for record in read_metrics(run.metrics)] == [1, 2, 3]
    assert read_record(run.path)["arguments"]["steps"] == 3
    assert read_record(run.path)["arguments"]["resume"] is None
    main(Steer(resume=run.path))
    assert read_record(run.path)["arguments"]["steps"] == 3
    with pytest.raises(SystemExit, match=r"--beta is given with --resume: 0\.3"):
        main(Steer(resume=run.path, beta=0.3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_preferences": [3]}, "has 'num_preferences', no option of steer"),
        ({"beta": None}, "lacks 'beta', expected .* in this version: .* by --config"),
        ({"prompts": 3}, "prompts is 3, expected texts"),
        ({"out": 3}, "out is 3, expected a path"),
        ({"steps": "many"}, 'steps is "many", expected a whole number'),
    ],
)
def test_arguments_of_another_script_are_refused_by_name(run, change, message):
    record = json.loads(run.arguments.read_text())
    del record["sha256"]  # changed on purpose
    record["arguments"] = {
        key: value
        for key, value in (record["arguments"] | change).items()
        if value is not None or key not in change
    }
    run.arguments.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=message):
        main(Steer(resume=run.path))


def test_a_bit_of_arguments_is_not_another_run(run):
    """Refused also if only the report would change, or if the fit has ended."""
    text = run.arguments.read_text()
    for one, other in (
        ('"samples": 8', '"samples": 9'),
        ('"steps": 2', '"steps": 3'),
        ('"sha256"', '"sha257"'),
    ):
        assert one in text
        run.arguments.write_text(text.replace(one, other))
        with pytest.raises(SystemExit, match=r"arguments\.json is (not as it was written|damaged)"):
            main(Steer(resume=run.path))
    run.arguments.write_text(text)
    assert read_record(run.path)["arguments"]["samples"] == 8


def test_arguments_are_written_once(run):
    before = run.arguments.stat()
    main(Steer(resume=run.path))
    after = run.arguments.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "name", ["arguments.json", "metrics.jsonl", "checkpoints", "guide", "report.html", "elbo.svg"]
)
def test_a_part_of_a_run_that_is_a_link_is_not_followed(run, name):
    (run.path / name).rename(run.path / "elsewhere")
    (run.path / name).symlink_to("elsewhere")
    with pytest.raises(SystemExit, match=f"{name} is a link, which is not followed"):
        main(Steer(resume=run.path))


def test_files_of_a_kill_are_removed_and_damaged_digests_do_not_end_a_run(run):
    (run.guide / ".saving-abc" / "inner").mkdir(parents=True)
    (run.guide / ".saving-abc" / "model.safetensors").touch()
    (run.path / ".arguments.json.0a1b2c3d.partial").touch()
    (run.guide / ".saving-link").symlink_to(run.checkpoints)
    (run.guide / "digests.json").write_text("{")
    main(Steer(resume=run.path))
    left = [
        str(path.relative_to(run.path)) for path in run.path.rglob(".*") if path.name != ".lock"
    ]
    assert left == ["guide/.saving-link"]
    assert any(run.checkpoints.iterdir())
    check_digests(run.guide)


def test_the_time_of_a_resumed_run_includes_the_steps_before(run):
    before = json.loads(run.measurements.read_text())["seconds"]
    main(Steer(resume=run.path, steps=SHORT.steps + 1))
    assert json.loads(run.measurements.read_text())["seconds"] > before


def test_a_run_in_use_is_refused(run):
    with locked(run.path), pytest.raises(FolderInUseError, match="is in use by another run"):
        main(Steer(resume=run.path))


def test_another_runs_checkpoint_is_refused(run, tmp_path):
    args = replace(SHORT, prior="prior", prompts=("a b",), beta=0.2, out=tmp_path / "other")
    other = main(args)
    shutil.rmtree(run.checkpoints)
    shutil.copytree(other.checkpoints, run.checkpoints)
    with pytest.raises(ValueError, match=r"is of a fit with .*prompts") as refusal:
        main(Steer(resume=run.path))
    assert "To go on" not in str(getattr(refusal.value, "__notes__", "")), "with what was refused"


def test_files_of_code_include_imported_neighbours(tmp_path):
    (tmp_path / "reward.py").write_text(
        "import os, one\nfrom two.inner import x\nfrom .three import y\n"
    )
    (tmp_path / "one.py").write_text("import reward\ndef f(: pass\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "inner.py").write_text("x = 1\n")
    (tmp_path / "three.py").write_text("y = 1\n")
    assert sorted(code_files(f"{tmp_path}/reward.py:f")) == ["one.py", "reward.py", "two/inner.py"]
    assert sorted(code_files("experiments.shared.claims:f"))[:1] == ["claims.py"]
    assert code_files("no.such.module:f") == {}


def files_with(text, folder):
    """Files of a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_no_saved_file_has_a_path_of_this_machine(start, tmp_path, monkeypatch):
    """Not the place of the run, of the prior, of the prompts, of a reward or of a network."""
    monkeypatch.undo()  # figures are drawn
    function = f"function:{start / 'rewards.py'}:kindness"
    rewards = (function, f"0.1*classifier:{start}/classifier:LABEL_0")
    args = replace(SHORT, prior=str(start / "prior"), reward=rewards, guide="lora", merge=True)
    args = replace(args, prompts_file=start / "prompts.txt", out=tmp_path / "runs")
    folder = main(args)
    assert len(list(folder.path.rglob("*"))) > 20
    for place in (start, tmp_path, Path.home(), Path.cwd()):
        assert files_with(str(place), folder.path) == []
    moment = (f"{function}=0.8",)
    args = replace(args, objective="forward-kl", reward=(), moment=moment, merge=False)
    assert files_with(str(start), main(args).path) == []


def test_a_run_with_its_inputs_resumes_at_another_place(run, start):
    """Absolute paths are saved relative to the run folder."""
    saved = json.loads(run.arguments.read_text())["arguments"]
    assert saved["prompts_file"] == "{run}/../../prompts.txt"
    assert saved["out"] == "{run}/.."
    (start / "prompts.txt").rename(start / "gone.txt")
    try:
        main(Steer(resume=run.path))
    finally:
        (start / "gone.txt").rename(start / "prompts.txt")


def test_a_path_that_is_not_saved_is_repeated_beside_resume(start, tmp_path, monkeypatch, capsys):
    """A place that has no folder but the root in common with the run."""
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")
    prior = str(start / "prior")
    args = replace(SHORT, prior=prior, prompts=("a",), out=tmp_path)
    folder = main(args)
    assert json.loads(folder.arguments.read_text())["arguments"]["prior"] == "{elsewhere}/prior"
    words = ["--resume", str(folder.path)]
    with pytest.raises(SystemExit):
        run_script(main, Steer, words)
    problem = "--prior: the run was made with {elsewhere}/prior, at a place that is not saved"
    assert problem in capsys.readouterr().err
    command = resume_command(folder, args)
    assert command.endswith(f"--resume {folder.path} --prior {prior} --out {tmp_path}")
    with pytest.raises(SystemExit) as end:
        run_script(main, Steer, command.split("steer", 1)[1].split())
    assert end.value.code == 0, capsys.readouterr().err
