"""Comparison of runs: means over seeds, interrupted and older runs, and a page of its own."""

import json
import math
import re
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import experiments
from experiments.compare.__main__ import Compare, main
from experiments.compare.curves import curves
from experiments.compare.runs import grouped, read_run, short_names
from experiments.compare.tables import difference_rows, label_lines, notes, number_rows
from experiments.shared.run_folder import RunFolder
from experiments.steer.arguments import Steer
from experiments.steer.decoding import numbers_of
from experiments.steer.measurements import write_sample_measurements
from inference import SAMPLERS, Enumeration, Estimate
from model import AlignmentModel, TextReward, vader_sentiment

ROOT = Path(experiments.__file__).parent
SCRIPTS = [ROOT / "shared" / "ticks.js", ROOT / "compare" / "charts.js"]


def record(step, value):
    return {"step": step, "elbo": value, "reward": value / 2, "kl": 0.1 * step}


@pytest.fixture
def make(tmp_path):
    """Function that writes the folder of a run of three steps."""

    def make_it(name, level, measured=True, **arguments):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_arguments(replace(Steer(out=tmp_path), **arguments))
        for step in (1, 2, 3):
            folder.append_metrics(record(step, level + step))
        if measured:
            guide = {
                "elbo": {"value": level, "standard_error": 0.5},
                "reward": {"value": level / 10, "standard_error": 0.01},
                "kl_guide_posterior": {"value": "inf", "standard_error": "nan"},
            }
            folder.measurements.write_text(json.dumps({"guide": guide}))
        return folder.path

    return make_it


@pytest.fixture
def paths(make):
    """Three seeds of one beta, the last interrupted, and one run of another beta and guide."""
    return (
        make("a0", 1.0, seed=0),
        make("a1", 3.0, seed=1),
        make("a2", 100.0, measured=False, seed=2),
        make("b", 7.0, beta=0.3, guide="lora"),
    )


def groups_of(paths):
    return grouped([read_run(path, path.name) for path in paths])


def test_runs_that_differ_in_the_seed_are_a_group_with_a_standard_error(paths):
    groups = groups_of(paths)
    assert [group.label for group in groups] == [
        "beta 0.1, guide fine-tuned",
        "beta 0.3, guide lora",
    ]
    head, *rows = number_rows(groups)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert [*table] == ["a0", "a1", "a2", "mean: beta 0.1, guide fine-tuned", "b"]
    assert table["a1"]["ELBO"] == str(Estimate(3.0, 0.5))
    assert table["b"]["KL(q || p*)"] == "inf"
    mean = table["mean: beta 0.1, guide fine-tuned"]
    assert mean["ELBO"] == str(Estimate(2.0, 1.0)), "of the two measured runs"
    assert mean["seed"] == "2 runs"


def test_a_run_again_is_no_new_seed(make):
    """The last run of a seed counts, but a measured one before an interrupted one."""
    paths = [make("a", 1.0, seed=0), make("again", 1.0, seed=0)]
    groups = groups_of(paths)
    paths.append(make("cut", 1.0, measured=False, seed=0, device="cpu"))
    assert [run.name for run in groups_of(paths)[0].averaged] == ["again"]
    *_, note = notes([read_run(path, path.name) for path in paths])
    assert note.startswith("No mean counts a, cut: ")
    assert [row[0] for row in number_rows(groups)] == ["run", "a", "again"]  # no mean, no error 0
    (drawn,) = curves(groups, "elbo", 1)
    assert np.isnan(drawn.error).all()


def test_an_interrupted_run_has_the_means_of_its_last_steps(paths):
    *_, a2, _, _ = number_rows(groups_of(paths))
    spread = statistics.stdev([101, 102, 103]) / math.sqrt(3)
    assert f"{Estimate(102.0, spread)} †" in a2
    runs = [read_run(path, path.name) for path in paths[:3]]
    assert notes(runs) == [
        "a2 has no measurements, only 3 steps: its numbers are means over the last 3 steps †."
    ]


def test_a_note_tells_runs_of_different_posteriors(make):
    runs = {
        name: read_run(make(name, 1.0, **arguments), name)
        for name, arguments in {
            "plain": {},
            "guide": {"guide": "lora", "objective": "grpo", "steps": 9, "seed": 3},
            "beta": {"beta": 0.3},
            "reward": {"reward": ("words:film",)},
        }.items()
    }
    assert notes([runs["plain"], runs["guide"]]) == []
    rest = "log Z and the divergences from p* do not rank their guides."
    assert notes([runs["plain"], runs["beta"]]) == [
        f"The runs have different posteriors (beta): ELBO, {rest}"
    ]
    assert notes([runs["beta"], runs["reward"]]) == [
        f"The runs have different posteriors (reward, beta): E[r], ELBO, {rest}"
    ]


def test_files_are_compared_by_name_and_content_in_whatever_folder(make):
    """A path in `arguments.json` is relative to the run, so that runs at other depths differ."""
    runs = []
    places = (("a", "{run}/../../data"), ("b", "{run}/../x"), ("c", "data"), ("other", "v2"))
    for name, folder in places:
        option, second = f"0.2*function:{folder}/my.py:kind", "0.8*function:w/my.py:kind"
        rewards = (option, second)
        path = make(name, 1.0, seed=len(runs), reward=rewards, dataset=f"{folder}/q.jsonl")
        saved = json.loads((path / "arguments.json").read_text())
        digest = "9f" if name == "other" else "1f"
        inputs = {f"--reward {option}": {"my.py": digest}, f"--reward {second}": {"my.py": "2f"}}
        inputs[f"--dataset {folder}/q.jsonl"] = {"q.jsonl": digest}
        (path / "arguments.json").write_text(json.dumps(saved | {"inputs": inputs}))
        runs.append(read_run(path, name))
    shortened = ["0.2*function:my.py:kind", "0.8*function:my.py:kind"]
    assert runs[0].arguments["reward"] == shortened
    assert notes(runs[:3]) == []
    groups = grouped(runs)
    assert [len(group.runs) for group in groups] == [3, 1]
    assert "posteriors (content of --reward, content of --dataset)" in notes(runs)[0]
    rows = {option: digests for option, *digests in difference_rows(groups)[1:]}
    assert rows.keys() == {"content of --reward my.py:kind", "content of --dataset q.jsonl"}
    assert all(len(set(digests)) == 2 for digests in rows.values())


def test_the_terminal_tells_which_run_is_which(paths):
    groups = groups_of(paths)
    assert label_lines(groups) == [
        "a0 and 2 more: beta 0.1, guide fine-tuned",
        "b: beta 0.3, guide lora",
    ]
    assert label_lines(groups[:1]) == []


def test_metrics_that_a_run_lacks_are_named(make, paths):
    old = make("old", 1.0, seed=5)
    text = (old / "metrics.jsonl").read_text()
    (old / "metrics.jsonl").write_text(text.replace('"reward"', '"other"'))
    sentences = notes([read_run(old, "old"), read_run(paths[0], "a0")])
    assert any(s.startswith("old lacks the metrics reward: ") for s in sentences)


@pytest.mark.parametrize(
    "warnings", [{"warnings": ["few draws"]}, {"reason": "few draws"}], ids=["now", "older run"]
)
def test_an_unreliable_number_is_marked_and_has_its_reason(make, warnings):
    paths = [make("a", 1.0, seed=0), make("b", 2.0, seed=1)]
    file = paths[1] / "measurements.json"
    measured = json.loads(file.read_text())
    measured["guide"]["log_z"] = {"value": 4.0, "standard_error": 0.1} | warnings
    file.write_text(json.dumps(measured))
    head, a, b, mean = number_rows(groups_of(paths))
    place = head.index("log Z")
    assert [row[place] for row in (a, b, mean)] == ["-", "4.000 ± 0.100 (?)", "-"]
    assert "(?)" not in a[head.index("ELBO")] + b[head.index("ELBO")]
    runs = [read_run(path, path.name) for path in paths]
    assert notes(runs) == ["b: few draws: log Z may be far off (?)."]


def test_arguments_that_differ_have_a_table(paths):
    head, *rows = difference_rows(groups_of(paths))
    assert head == ("argument", "a0 and 2 more", "b")
    assert rows[:2] == [("beta", "0.1", "0.3"), ("guide", "fine-tuned", "lora")]
    assert difference_rows(groups_of(paths[:3]))[1:] == []


def test_an_argument_without_effect_makes_no_difference(make):
    """Beside a folder of an earlier version, which does not say which, all arguments count."""
    paths = [make(name, 1.0, time="9s", steps=n, seed=n) for n, name in enumerate("abc", 1)]
    runs = [read_run(path, path.name) for path in paths]
    assert [len(group.runs) for group in grouped(runs)] == [3]
    record = json.loads((paths[2] / "arguments.json").read_text())
    assert "steps" in record.pop("unused")
    (paths[2] / "arguments.json").write_text(json.dumps(record))
    older = read_run(paths[2], "c")
    groups = grouped([*runs[:2], older])
    assert [group.label for group in groups] == ["steps 1", "steps 2", "steps 3"]
    assert difference_rows(groups)[1:] == [("steps", "1", "2", "3")]
    assert [len(group.runs) for group in grouped([runs[2], older])] == [2]
    assert notes(runs) == []
    assert notes([*runs[:2], older])[0].startswith("c is of an earlier version, without a record")


def test_the_page_stands_alone_and_has_all_curves(paths, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # all kinds of files are written
    folder = main(Compare(paths, smooth=1, out=tmp_path / "out"))
    printed, page = capsys.readouterr().out, folder.report.read_text()
    assert "mean: beta 0.1, guide fine-tuned" in printed
    assert not re.search(r"""(src|href)\s*=|@import|url\(|fetch\(""", page)
    assert set(re.findall(r"https?://[\w./]+", page)) == {"http://www.w3.org/2000/svg"}
    for path in folder.path.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    data = json.loads(text)
    assert data["labels"] == ["beta 0.1, guide fine-tuned", "beta 0.3, guide lora"]
    assert [chart["name"] for chart in data["charts"]] == ["elbo", "reward", "kl"]
    first, second = data["charts"][0]["series"]
    values = [[level + step for level in (1, 3, 100)] for step in (1, 2, 3)]
    assert first["x"] == [1, 2, 3]
    assert first["y"] == pytest.approx([statistics.fmean(row) for row in values], rel=1e-5)
    error = statistics.stdev(values[0]) / math.sqrt(3)
    assert first["e"] == pytest.approx([error] * 3, rel=1e-5)
    assert second["e"] == [None] * 3
    kinds = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    for name in ("elbo", "reward", "kl"):
        for suffix, start in kinds.items():
            assert (folder.path / "figures" / f"{name}{suffix}").read_bytes()[:4] == start


def test_the_page_is_as_wide_as_a_phone(paths, tmp_path, chromium):
    """Wide tables scroll by themselves."""
    folder = main(Compare(paths, out=tmp_path / "out"))
    page = chromium.new_page(viewport={"width": 360, "height": 800})
    page.goto(folder.report.as_uri())
    assert page.locator("#charts svg").count() == 3
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert width <= 360


def test_a_name_with_html_is_text_on_the_page(make, tmp_path):
    paths = (make("a", 1.0), make("b", 2.0, reward=("function:x.py:</script><b>",)))
    page = main(Compare(paths, out=tmp_path / "out")).report.read_text()
    assert "</script><b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page


def test_a_run_without_a_step_or_with_damaged_files_is_compared_too(make, paths, tmp_path):
    empty = make("empty", 1.0, measured=False, seed=9)
    (empty / "metrics.jsonl").unlink()
    damaged = make("damaged", 1.0, seed=10)
    (damaged / "measurements.json").write_text("{")
    (damaged / "arguments.json").write_text("{")
    folder = main(Compare((*paths, empty, damaged), out=tmp_path / "out"))
    page = folder.report.read_text()
    assert "empty has no measurements, only 0 steps: it has no numbers." in page
    assert "damaged has no arguments that can be read" in page


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "RUNS is empty"),
        (("a0", "a0"), "RUNS names a folder twice"),
        (("a0", "nothing"), "nothing: expected a run folder with arguments"),
    ],
)
def test_folders_that_are_no_runs_are_refused(make, paths, tmp_path, names, message):
    with pytest.raises(SystemExit, match=message):
        main(Compare(tuple(tmp_path / name for name in names), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_runs_of_a_sampler_are_compared_by_their_numbers(prior, prompts, tmp_path, capsys):
    """Their page has no curves."""
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), 0.3)
    folders, log_z = [], {}
    for name, warnings in (("enumeration", []), ("smc", []), ("importance", ["few draws"])):
        posterior = SAMPLERS[name](model, prompts, num_samples=512)
        log_z[name] = posterior.log_z.mean().item()
        numbers = numbers_of(model, prompts, posterior, prior(prompts).sample((8,)))
        folder = RunFolder.new(tmp_path, name)
        folder.write_arguments(Steer(out=tmp_path, sample=name, steps=1 + len(folders)))
        write_sample_measurements(folder, {}, numbers, warnings)
        folders.append(folder.path)
    page = main(Compare(tuple(folders), out=tmp_path / "out")).report.read_text()
    printed = capsys.readouterr().out
    runs = [read_run(path, path.name) for path in folders]
    truth = Enumeration(model, prompts)
    reward = (truth.log_posterior.exp() * truth.log_likelihood * model.beta).sum(0).mean()
    for run in runs:
        assert run.numbers.keys() == {"E[r]", "log Z"}
        for column, exact in (("E[r]", reward), ("log Z", truth.log_z.mean())):
            value, error = run.numbers[column]
            least = math.inf if math.isnan(error) else 4 * error + 1e-9
            assert value == pytest.approx(exact.item(), abs=least), (run.name, column)
        assert run.numbers["log Z"].value == pytest.approx(log_z[run.name.partition("-")[0]])
    assert f"{truth.log_z.mean():.3f} ± 0.000 " in printed
    assert [math.isnan(run.numbers["log Z"][1]) for run in runs] == [False, True, False]
    assert "few draws: E[r], log Z may be far off" in page
    assert "Curves" not in page
    assert "figures" not in printed
    assert [group.label for group in grouped(runs)] == [f"sample {name}" for name in log_z]


def test_runs_have_the_shortest_names_that_differ():
    paths = [Path(path) for path in ("/a/x/run", "/b/x/run", "/x/run", "/b/x/other")]
    assert short_names(paths) == ["a/x/run", "b/x/run", "/x/run", "other"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_functions_of_the_charts():
    """Ticks are round, the nearest step is found, a gap is a gap, and a zoom stays inside."""
    code = (
        "".join(script.read_text() for script in SCRIPTS)
        + """
    const one = { group: 0, x: [1, 2, 3], y: [1, null, 3], e: [0.5, null, null] };
    console.log(JSON.stringify([
      ticks(0, 1, 5), ticks(-54.2, -50.1, 5), ticks(3, 3, 5),
      [nearest([1, 5, 9], 6), nearest([1, 5, 9], 7.5), nearest([4], 99)],
      extentX([one, { x: [0, 7] }]), extentY([one], [1, 3]), extentY([one], [2, 2]),
      zoomed([0, 100], 50, 0.5, [0, 100]), zoomed([25, 75], 50, 4, [0, 100]),
      linePath(one.x, one.y, (x) => x, (y) => y), bandPath(one, (x) => x, (y) => y),
      bandPath({ x: [1, 2], y: [5, 6], e: [1, 1] }, (x) => x, (y) => y),
      tipText([one], ["a run"], 1.2), tipText([one], ["a run"], 9),
    ]));
    """
    )
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        [0, 0.2, 0.4, 0.6, 0.8, 1],
        [-54, -53, -52, -51],
        [3],
        [1, 2, 0],
        [0, 7],
        pytest.approx([0.375, 3.125]),
        [0, 1],
        [25, 75],
        [0, 100],
        "M1.0 1.0M3.0 3.0",
        "",
        "M1.0 6.0L2.0 7.0L2.0 5.0L1.0 4.0Z",
        "step 1\na run: 1 ± 0.5",
        "step 9",
    ]


def test_page_and_figures_say_over_how_many_steps_a_point_is_a_mean(paths, tmp_path):
    for window, is_mean in ((1, False), (3, True)):
        folder = main(Compare(paths[2:], smooth=window, out=tmp_path / "out"))
        assert ("mean of its step and the 2 before it" in folder.report.read_text()) == is_mean
        figure = (folder.path / "figures" / "elbo.svg").read_text()
        assert ("<!-- SVI step (running mean over 3 steps) -->" in figure) == is_mean
