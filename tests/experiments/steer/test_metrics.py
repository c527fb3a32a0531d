"""Damaged metrics do not end a run: a bad line is left out, with a warning."""

import pytest

from experiments.shared.metrics_file import read_metrics
from experiments.shared.run_folder import RunFolder

RECORD = {"elbo": 0.5, "log_likelihood": float("nan")}


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "elb',
        b"",
        b"\0\0\0\0\0\0",
        b"\xff\xfe",
        b'"step"',
        b"[1, 2]",
        b"null",
        b"3",
        b"{}",
        b'{"elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": NaN, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": true, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 0, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 3.5, "elbo": 1.0, "log_likelihood": 1.0}',
        b'{"step": 3, "elbo": "x", "log_likelihood": 1.0}',
        b'{"step": 3, "elbo": null, "log_likelihood": 1.0}',
        b'{"step": 3}',
        b'{"step": 3, "elbo": 1.0, "log_evid\xc3nce": 1.0}',
        b"[" * 20_000,
    ],
)
def test_a_bad_line_of_metrics_is_left_out_and_told(tmp_path, line):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step} | RECORD)
    with folder.metrics.open("ab") as file:
        file.write(line + b"\n")
    for step in (2, 3):
        folder.append_metrics({"step": step} | RECORD | {"elbo": 0.75})
    message = "1 of 5 lines are no record of a step and were left out, the first is line 3"
    with pytest.warns(UserWarning, match=message):
        records = read_metrics(folder.metrics)
    steps = [(record["step"], record["elbo"]) for record in records]
    assert steps == [(1, 0.5), (2, 0.75), (3, 0.75)]


def test_what_is_appended_after_a_torn_line_is_not_lost(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1} | RECORD)
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 2, "elbo": 0.')
    folder.append_metrics({"step": 2} | RECORD)
    with pytest.warns(UserWarning, match="1 of 3 lines"):
        assert [record["step"] for record in read_metrics(folder.metrics)] == [1, 2]
