"""The defaults of `fit` on models that nobody tuned the defaults to.

Question: do the defaults of `fit` hold on other priors, lengths, betas, rewards, guides and
objectives?
Claim: after 40 steps of 32 responses with the defaults of `fit`, no guide of an objective that
descends KL(q || p*) is further from the posterior than the prior. The median share of KL(p0 || p*)
that is left is at most 35 %, over runs that start between 1 and 6 nats.
Source: a requirement of this project. The cells are fixed before any default is tuned.
Printed: medians and worst runs by the level of each factor, the worst runs by name, the verdict.
Written: `results.jsonl`, a line for each run as it ends; the table as `table.md`; `abroad.svg`.

The cells are a balanced fraction of all combinations, see `design.py`. Cells of a prior that is
absent are skipped by name. The defaults take 80 to 90 CPU minutes without SmolLM2, and two CPU
hours more with SmolLM2, whose runs take about ten minutes each.

    python -m experiments.foreign --stories ../shared/data/stories260k
    python -m experiments.foreign --only random-gpt2 random-llama lora twisted
    python -m experiments.foreign --resume runs/foreign-DATE-TIME
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from tqdm import tqdm

from experiments.foreign.design import FACTORS, Cell, design
from experiments.foreign.findings import findings
from experiments.foreign.priors import absence
from experiments.foreign.records import Run, check_names, read_runs, to_line
from experiments.foreign.report import strip_figure, tables, write_markdown
from experiments.foreign.runs import Job, run
from experiments.shared import argument_types as types
from experiments.shared.claims import Finding, conclude
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save
from experiments.shared.refusals import resume_hint
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.workers import run_all
from inference.svi.checkpoint.folder import locked
from model.common.paths import expanded


@dataclass(frozen=True)
class Foreign(Arguments):
    """Run the defaults of `fit` on priors, rewards and guides that nobody tuned the defaults to."""

    threads: ClassVar[types.Threads] = 1
    cells: Annotated[int, types.count(48, 1_000)] = 72
    """Number of cells: combinations of prior, length, beta, reward, guide and objective."""
    design_seed: types.Seed = 0
    """Random seed of the choice of cells."""
    seeds: types.Seeds = 2
    """Number of independent fits of each cell."""
    only: tuple[str, ...] = ()
    """Levels by name, such as `lora` or `0.1`: a cell is left out if a factor has other levels
    among these names. Default: all cells."""
    stories: types.Folder | None = None
    """Folder of the prior `stories260k`, a network in Hugging Face format. Default: its cells are
    skipped."""
    steps: types.Count = 40
    """Number of batches of a fit, of 32 responses each."""
    samples: Annotated[int, types.count(2)] = 512
    """Number of responses of a guide behind each measurement."""
    prior_draws: Annotated[int, types.count(2)] = 1024
    """Number of draws of the prior behind log Z and KL(p* || q)."""
    workers: types.Workers = types.CORES
    """Number of processes, each with one thread."""
    out: types.Out = Path("runs")
    """Folder in which the run folder is made."""
    resume: Path | None = None
    """Run folder to continue: its arguments become the defaults, ended runs are not repeated."""

    def completed(self, parse: Callable[[Self], Self]) -> Self:
        if self.resume is None:
            return self
        file = RunFolder(self.resume).arguments
        if not file.is_file():
            raise SystemExit(f"--resume {self.resume}: there is no {file.name}")
        saved = expanded(json.loads(file.read_text())["arguments"], self.resume)
        check_names(file, saved, (field.name for field in fields(self)))
        saved |= {"only": tuple(saved["only"]), "out": Path(saved["out"]), "resume": self.resume}
        stories = saved["stories"] and Path(saved["stories"])
        saved["stories"] = stories if stories and stories.is_dir() else None
        args = parse(replace(self, **saved))
        if stories and args.stories is None:
            fault = f"the folder {stories.name!r} is not where {file.name} says"
            raise SystemExit(f"--resume {self.resume}: {fault}: pass --stories again")
        return args


def main(args: Foreign) -> list[Finding]:
    """Findings over all runs."""
    jobs = list_jobs(args)
    with _folder(args) as folder:
        runs = run_jobs(jobs, folder.path / "results.jsonl", args.workers, folder.path)
        write_markdown(runs, folder.path / "table.md")
        print(f"\n{save(strip_figure(runs), folder.path / 'abroad.svg')}")
        return conclude(__doc__, tables(runs), findings(runs))


def list_jobs(args: Foreign) -> list[Job]:
    """All runs, the seeds of a cell side by side. Prints which cells are skipped."""
    types.chosen(args.only, [level for levels in FACTORS.values() for level in levels])
    cells = [cell for cell in design(args.cells, args.design_seed) if _matches(cell, args.only)]
    for prior in dict.fromkeys(cell.prior for cell in cells):
        if reason := absence(prior, args.stories):
            number = sum(cell.prior == prior for cell in cells)
            print(f"{prior} is skipped, {number} cells: {reason}")
            cells = [cell for cell in cells if cell.prior != prior]
    if not cells:
        raise SystemExit("--only leaves no cell to run: name fewer levels, or ask for more --cells")
    sizes = args.steps, args.samples, args.prior_draws, args.stories
    return [Job(cell, seed, *sizes) for cell in cells for seed in range(args.seeds)]


def _matches(cell: Cell, only: tuple[str, ...]) -> bool:
    """True if each factor with names in `only` has one of them in this cell."""
    named = (set(levels).intersection(only) for levels in FACTORS.values())
    return all(level in (names or {level}) for level, names in zip(cell, named, strict=True))


def run_jobs(jobs: list[Job], file: Path, workers: int, folder: Path) -> list[Run]:
    """Runs of all jobs, read from the file if there, else run and written as they end."""
    runs = {each.key: each for each in read_runs(file)}
    left = [job for job in jobs if job.key not in runs]
    print(f"{len(jobs)} runs, {len(left)} to do, each written to {file} as it ends")
    hint = resume_hint(lambda: f"To go on: python -m experiments.foreign --resume {folder}")
    with file.open("a") as lines, hint, closing(run_all(run, left, workers)) as finished:
        for result in tqdm(finished, total=len(left), desc="foreign", unit="run"):
            runs[result.key] = result
            print(to_line(result), end="", file=lines, flush=True)
    return [runs[job.key] for job in jobs]


@contextmanager
def _folder(args: Foreign) -> Iterator[RunFolder]:
    """A new run folder, or the locked folder of the run to resume."""
    if args.resume is None:
        with new_folder(args, "foreign") as folder:
            yield folder
    else:
        with locked(args.resume):
            yield RunFolder(args.resume)


if __name__ == "__main__":
    run_script(main, Foreign)
