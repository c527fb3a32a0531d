"""Small runs of the script: files, resume, skipped priors, refusals; every guide and objective."""

import json
import math
from dataclasses import replace

import pytest

from experiments.foreign import __main__ as foreign
from experiments.foreign import runs
from experiments.foreign.__main__ import Foreign, list_jobs, main
from experiments.foreign.design import FACTORS, Cell
from experiments.foreign.findings import REVERSE, is_above
from experiments.foreign.records import read_runs
from experiments.foreign.runs import Job, run
from experiments.shared.command_line import run_script
from inference import diagnose


@pytest.fixture
def args(tmp_path):
    """Two runs of a random network."""
    only = ("random-llama", "12")
    sizes = {"steps": 2, "samples": 16, "prior_draws": 32}
    return Foreign(only=only, seeds=1, workers=1, out=tmp_path, **sizes)


@pytest.fixture
def skipped(monkeypatch):
    """SmolLM2 is absent, whatever is installed."""
    reason = {"smollm2": "no packages", "stories260k": "no folder"}
    monkeypatch.setattr(foreign, "absence", lambda name, _: reason.get(name, ""))


def test_a_run_leaves_records_table_and_figure(args, capsys):
    findings = main(args)
    assert len(findings) == 3
    assert findings[0].held
    folder = next(args.out.iterdir())
    names = {"arguments.json", "results.jsonl", "table.md", "abroad.svg"}
    assert names <= {path.name for path in folder.iterdir()}
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    jobs = list_jobs(args)
    assert [(Cell(**line["cell"]), line["seed"]) for line in lines] == [job.key[:2] for job in jobs]
    text = capsys.readouterr().out
    assert "prior random-llama" in text
    assert "The claim" in text


def test_a_resume_runs_the_rest_and_ends_as_without_the_interruption(args, capsys, monkeypatch):
    main(args)
    folder = next(args.out.iterdir())
    file = folder / "results.jsonl"
    whole = read_runs(file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1]) + lines[1][:40])  # killed in the middle of a line
    fresh = []
    monkeypatch.setattr(foreign, "run", lambda job: fresh.append(job.key) or run(job))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_script(main, Foreign, ["--resume", str(folder)])
    assert f"{len(whole)} runs, {len(whole) - 1} to do" in capsys.readouterr().out
    assert fresh == [each.key for each in whole[1:]]
    same = [replace(each, seconds=(0.0, 0.0)) for each in whole]
    assert [replace(each, seconds=(0.0, 0.0)) for each in read_runs(file)] == same
    assert sum(1 for _ in args.out.iterdir()) == 1

    with pytest.raises(SystemExit):  # ended: nothing is left, and the report is printed again
        run_script(main, Foreign, ["--resume", str(folder)])
    assert len(fresh) == len(whole) - 1
    assert "The claim" in capsys.readouterr().out


def test_runs_of_other_steps_are_not_taken_for_these(args):
    one = replace(args, seeds=1, only=(*args.only, "trajectory-balance"))
    main(one)
    folder = next(args.out.iterdir())
    main(replace(one, steps=1, resume=folder))
    assert {each.steps for each in read_runs(folder / "results.jsonl")} == {1, 2}


def test_a_folder_of_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_script(main, Foreign, ["--resume", str(tmp_path)])
    assert "there is no arguments.json" in capsys.readouterr().err


def test_a_run_of_another_version_is_refused_by_name(args, capsys):
    main(replace(args, only=(*args.only, "trajectory-balance")))
    folder = next(args.out.iterdir())
    lines = (folder / "results.jsonl").read_text()
    saved = json.loads((folder / "arguments.json").read_text())

    def refusal(file, text):
        (folder / file).write_text(text)
        with pytest.raises(SystemExit) as end:
            run_script(main, Foreign, ["--resume", str(folder)])
        assert end.value.code == 2
        start = f"--resume {folder}: {file}: expected the names of this version, which differ in "
        assert (folder / file).read_text() == text
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith(start)
        return error.removeprefix(start)

    earlier = lines.replace('"steps": 2', '"steps": 2, "start": [1.0, 0.1]')
    assert refusal("results.jsonl", earlier) == "start. Start the run again"
    assert refusal("results.jsonl", lines.replace('"beta"', '"strength"')) == (
        "beta, strength. Start the run again"
    )
    del saved["arguments"]["design_seed"]
    assert refusal("arguments.json", json.dumps(saved)) == "design_seed. Start the run again"


def test_a_resume_finds_the_stories_or_asks_for_them(args, tmp_path, capsys):
    def resumed(stories):
        saved = vars(args) | {"stories": stories, "out": str(args.out)}
        record = json.dumps({"arguments": saved}, default=str)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "arguments.json").write_text(record)
        return replace(args, resume=tmp_path / "run").completed(lambda new: new)

    assert resumed(None).stories is None
    for place in ("{run}/../stories", "{elsewhere}/stories"):
        with pytest.raises(SystemExit, match=r"'stories' is not .*: pass --stories again"):
            resumed(place)
    (tmp_path / "stories").mkdir()
    assert resumed("{run}/../stories").stories == tmp_path / "stories"


def test_absent_priors_are_skipped_by_name(args, skipped, capsys):
    jobs = list_jobs(replace(args, only=()))
    assert {job.cell.prior for job in jobs}.isdisjoint({"stories260k", "smollm2"})
    text = capsys.readouterr().out
    assert "smollm2 is skipped, 6 cells: no packages" in text
    assert "stories260k is skipped, 13 cells: no folder" in text
    with pytest.raises(SystemExit, match="--only leaves no cell to run"):
        list_jobs(replace(args, only=("smollm2",)))


def test_only_selects_levels_within_each_factor(args, skipped):
    cells = [job.cell for job in list_jobs(replace(args, only=("lora", "twisted", "0.1")))]
    assert {cell.guide for cell in cells} == {"lora", "twisted"}
    assert {cell.beta for cell in cells} == {"0.1"}
    assert len({cell.objective for cell in cells}) > 1


REWARDS = [reward for reward in FACTORS["reward"][:3] for _ in range(2)]
PARTS = zip(REWARDS, FACTORS["guide"], [*FACTORS["objective"]] * 2, strict=False)
CELLS = [Cell(f"random-{('llama', 'gpt2')[i % 2]}", "12", "0.2", *p) for i, p in enumerate(PARTS)]


@pytest.fixture(scope="module", params=CELLS, ids=lambda cell: cell.name)
def result(request):
    """The fast part of the suite: each guide and objective, three rewards, few steps."""
    return run(Job(request.param, seed=0, steps=6, samples=128, prior_draws=128, stories=None))


def test_every_guide_and_objective_is_measured(result):
    assert not result.note, result.note
    assert result.stopped_early is None
    estimates = (result.start, result.rise, result.share_left, *result.after.values())
    assert all(math.isfinite(estimate.value) for estimate in estimates)
    ends = result.after["log_z"].minus(result.after["elbo"])
    assert ends.value - result.start.value == pytest.approx(result.rise.value, abs=1e-9)


def test_defaults_of_the_reverse_kl_leave_no_guide_further_than_its_start(result):
    if result.cell.objective in REVERSE:
        assert not is_above(result.own_rise)
        assert result.after["entropy"].value > result.prior["entropy"].value / 2


def test_a_refusal_is_a_result(monkeypatch):
    def fails(*_):
        raise ValueError("the guide is\nNaN")

    monkeypatch.setattr(runs, "build", fails)
    refused = run(Job(CELLS[0], seed=3, steps=1, samples=4, prior_draws=4, stories=None))
    assert refused.note == "the guide is NaN"
    assert refused.key == (CELLS[0], 3, 1)


def test_measurements_of_the_prior_are_those_of_a_guide_that_is_the_prior():
    cell = CELLS[0]._replace(guide="", objective="")
    numbers = runs.prior_numbers(cell, 256, None)
    world = runs.world_of(cell, 256, None)
    measured = diagnose(world.model, runs.build("fixed", world), world.prompts, num_samples=256)
    for name in ("elbo", "log_z", "entropy"):
        difference = numbers[name].minus(getattr(measured, name))
        assert abs(difference.value) < 5 * difference.standard_error, name
    assert numbers["reward"].value == pytest.approx(numbers["elbo"].value * world.model.beta)
