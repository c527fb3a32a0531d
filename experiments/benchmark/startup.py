"""CPU time until a script runs, beside the imports that no script avoids."""

import resource
import statistics
import subprocess
import sys

from experiments.shared.cost import ratio_of_means
from experiments.shared.tables import cell, text_table

IMPORTS = "import torch, pyro, transformers"
COMMANDS = {
    IMPORTS: ["-c", IMPORTS],
    "import model": ["-c", "import model"],
    "steer --help": ["-m", "experiments.steer", "--help"],
}
AT_MOST = {"import model": 1.3, "steer --help": 1.6}
"""Claimed upper limits, as multiples of the imports of torch, Pyro and transformers."""


def cpu_seconds(arguments: list[str]) -> float:
    """CPU seconds of a new Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report_startup(rounds: int) -> str:
    """Run each command once in each round, after a first that is not timed. Returns a table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_seconds(arguments))
    rows = {}
    for name, (_, *seconds) in times.items():
        rows[name] = [f"{statistics.fmean(seconds):.2f}", "-", "-"]
        if name in AT_MOST:
            multiple = ratio_of_means(seconds, times[IMPORTS][1:])
            rows[name][1:] = [cell(*multiple), f"<= {AT_MOST[name]:.1f}"]
    table = text_table(["CPU, s", "multiple", "claimed"], rows)
    return f"Start-up, means of {rounds} rounds; multiples ± standard errors\n{table}"
