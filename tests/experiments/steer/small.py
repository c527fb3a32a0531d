"""A short run for the tests of `experiments.steer`, and runs that an error ends early."""

import signal

import pytest

from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer

SHORT = Steer(
    steps=5, particles=4, samples=8, prior_draws=40, threads=1, max_new_tokens=3, guide="n-gram"
)


def untimed(folder: RunFolder) -> list[dict]:
    """Metrics of a run without the times of the steps."""
    return [record | {"step_time": 0} for record in read_metrics(folder.metrics)]


def ended_early(args: Steer, error: BaseException | None = None, step: int = 3) -> tuple:
    """Folder of a run, the only one in `args.out`, that an error ends after a step; the error.

    The default is an interrupt by Ctrl-C.
    """
    append, error = RunFolder.append_metrics, error or KeyboardInterrupt(signal.SIGINT)

    def append_and_raise(folder: RunFolder, record: dict) -> None:
        append(folder, record)
        if record["step"] == step:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", append_and_raise)
        with pytest.raises(type(error)) as end:
            main(args)
    [path] = args.out.iterdir()
    return RunFolder(path), end.value
