"""Run folder: arguments, versions, metrics, checkpoints, guide, figures and page of a run."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from platform import python_version
from typing import Any, Self

from experiments.shared.command_line import without_effect
from experiments.shared.refusals import blamed
from inference.svi.checkpoint.folder import locked
from model.common.files import text_digest, write_atomically
from model.common.paths import portable

PACKAGES = ("torch", "pyro-ppl", "transformers", "numpy", "elbo-rl")
FOLDER = Path(__file__).parents[1]
DIGEST = "sha256"  # key of the digest, in the file of the record: one rename writes both


class RunFolder:
    """Paths of a run in an existing folder; `new` makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.merged = path, path / "merged"
        self.checkpoints, self.guide = path / "checkpoints", path / "guide"
        self.arguments, self.metrics = path / "arguments.json", path / "metrics.jsonl"
        self.report, self.measurements = path / "report.html", path / "measurements.json"

    @classmethod
    def new(cls, parent: Path, name: str) -> Self:
        """Make the folder `PARENT/NAME-DATE-TIME`, with a number at the end if the name exists."""
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        parent.mkdir(parents=True, exist_ok=True)
        for number in count():
            path = parent / (f"{stem}-{number}" if number else stem)
            with suppress(FileExistsError):
                path.mkdir()
                return cls(path)
        raise AssertionError("unreachable: the numbers do not end")

    def write_arguments(self, arguments: Any, inputs: Mapping[str, Any] | None = None) -> None:
        """Write arguments, a dataclass, names of the unused, digests of their files, versions."""
        record = {"arguments": asdict(arguments), "unused": [*without_effect(arguments)]}
        record |= {"inputs": inputs or {}, "versions": versions()}
        record = portable(json.loads(json.dumps(record, default=str)), self.path)
        record = {DIGEST: digest_of(record)} | record
        write_atomically(self.arguments, json.dumps(record, indent=2) + "\n")

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """Append a line of metrics, after a line break if the last line was cut off."""
        with self.metrics.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(record).encode() + b"\n")

    def write_page(self, template: str, title: str, **values: Any) -> None:
        """Write `report.html`, one self-contained page by a template."""
        self.report.write_text(page_of(template, title=title, **values), encoding="utf-8")


def page_of(template: str, **values: Any) -> str:
    """A page by a template of Jinja in `experiments`: one file, in which every text is escaped.

    In a template `source("shared/ticks.js")` is the text of a file in `experiments` as it is, and
    `file(path)` the text of any file, such as a figure of a run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # takes time to import
    from markupsafe import Markup

    def file(path: str | Path) -> Markup:
        return Markup(Path(path).read_text("utf-8"))

    line_breaks = ("trim_blocks", "lstrip_blocks", "keep_trailing_newline")
    options: dict[str, Any] = dict.fromkeys((*line_breaks, "autoescape"), True)
    pages = Environment(loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, **options)
    pages.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    pages.globals |= {"file": file, "source": lambda path: file(FOLDER / path)}
    return pages.get_template(template).render(values)


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, if they are installed, and of Python."""
    numbers = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # this project may run from its folder alone
            numbers[name] = version(name)
    return numbers | {"python": python_version()}


def digest_of(record: dict[str, Any]) -> str:
    """Digest of a record, independent of order and white space."""
    return text_digest(json.dumps(record, sort_keys=True))


@contextmanager
def new_folder(
    args: Any, name: str, inputs: Mapping[str, Any] | None = None
) -> Iterator[RunFolder]:
    """Make and lock a run folder in `args.out`, with the arguments and digests of inputs in it.

    The folder and new parents are removed if the code inside fails before writing a file.
    """
    out = args.out.expanduser()  # shells leave the ~ of --out=~/runs as it is
    parents = [place for place in (out, *out.parents) if not place.exists()]
    with blamed(f"--out {out}"):
        folder = RunFolder.new(out, name)
    with locked(folder.path):
        folder.write_arguments(args, inputs)
        written = set(folder.path.iterdir())
        try:
            yield folder
        except BaseException:
            if set(folder.path.iterdir()) == written:
                for file in written:
                    file.unlink()
                with suppress(OSError):  # up to the first parent that holds something
                    for empty in (folder.path, *parents):
                        empty.rmdir()
            raise
