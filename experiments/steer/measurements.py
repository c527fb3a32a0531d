"""Measurements of a run as data: `measurements.json`, and the facts of the guide's model card.

    {"title": ..., "beta": ..., "seconds": ..., "notes": [...],
     "prior": {...}, or "student": {...}; "posterior": {...},
     "guide": {NAME: {"value": 1.2, "standard_error": 0.1}, ...}}

A run of `--sample` has "sample", numbers of the target of the sampler, in place of "guide". Nats
per response, but for `reward` and counts. An unreliable number has `warnings`. A number that is not
finite is a text, `inf` or `nan`, because JSON has no such numbers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from experiments.shared.run_folder import RunFolder, versions
from experiments.steer.arguments import Steer
from experiments.steer.expectations import Measurement
from experiments.steer.report import Report
from guides.model_card import ModelCard
from inference import Diagnostics, Estimate
from model.common.files import write_atomically
from model.common.paths import without_folders
from model.prior.named_priors import ON_THE_HUB

POSTERIOR = {
    "log_z": "log_z",
    "kl_posterior_prior": "kl_posterior_prior",
    "log_likelihood": "posterior_log_likelihood",
}
"""Measurements of the posterior, by the attribute of `Diagnostics`."""
Numbers = dict[str, dict[str, Any]]


def write_measurements(folder: RunFolder, report: Report) -> None:
    """Write `measurements.json`."""
    after = report.after.diagnostics
    posterior = {name: _number(after, attribute) for name, attribute in POSTERIOR.items()}
    posterior["reward"] = _plain(report.posterior.reward)
    record = {
        "title": report.title,
        "beta": report.beta,
        "seconds": report.seconds,
        "notes": report.notes(),
        report.start: _numbers(report.before),
        "guide": _numbers(report.after),
        "posterior": posterior,
    }
    _write(folder, record)


def write_sample_measurements(
    folder: RunFolder,
    head: Mapping[str, Any],
    numbers: Mapping[str, Mapping[str, Estimate]],
    warnings: Sequence[str],
) -> None:
    """Write `measurements.json` of a run of `--sample`, from the numbers of prior and target.

    The warnings are of all numbers of the target.
    """
    (prior, of_prior), (_, of_target) = numbers.items()
    reasons = {"warnings": warnings} if warnings else {}
    sample = {name: _plain(estimate) | reasons for name, estimate in of_target.items()}
    columns = {prior: {name: _plain(each) for name, each in of_prior.items()}, "sample": sample}
    _write(folder, {**head, **columns})


def _write(folder: RunFolder, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder.measurements, text + "\n")


def model_card(args: Steer, report: Report | None = None) -> ModelCard:
    """Model card of the guide of a run; without the measurements if there is no report yet."""
    names, start = ("max_new_tokens", "temperature", "dtype"), args.student or args.prior
    options = "".join(f", {key} {value}" for key, value in args.guide_options.items())
    facts = {
        "prior p0": args.prior,
        "student, from which the guide starts": args.student or "",
        "rewards r": ", ".join(args.reward) or "none",
        "constraints": ", ".join(args.constraint),
        "penalty of the constraints": "" if args.penalty is None else f"{args.penalty:g} nats",
        "factors": ", ".join(args.factor),
        "moments": ", ".join(args.moment),
        "beta": f"{args.beta:g}",
        "data set": args.dataset or "",
        "options of the guide": options.removeprefix(", "),
        "training": f"objective {args.objective}, seed {args.seed}",
        **({} if report is None else _facts(report)),
    }
    return ModelCard(
        args.title,
        without_folders(start),
        ON_THE_HUB.get(start, ""),
        {name: getattr(args, name) for name in names},
        {name: without_folders(value) for name, value in facts.items()},
        versions(),
    )


def _facts(report: Report) -> dict[str, str]:
    diagnostics, expected = report.after
    time = {"E_q[r]": str(expected.reward), "time": f"{report.seconds:.0f} s of SVI"}
    return diagnostics.summary() | time | {"notes": " ".join(report.fit_notes)}


def _numbers(measured: Measurement) -> Numbers:
    """All estimates of a measurement, by the attribute of `Diagnostics`, and the expectations."""
    diagnostics, expected = measured
    names = [field.name for field in fields(diagnostics)]
    estimates = [name for name in names if isinstance(getattr(diagnostics, name), Estimate)]
    numbers = {name: _number(diagnostics, name) for name in estimates}
    numbers["reward"] = _plain(expected.reward)
    numbers["forbidden"] = {"value": expected.forbidden}
    for name, moment in expected.moments.items():
        numbers[f"E[{without_folders(name)}]"] = _plain(moment)
    numbers["distinct_2"] = {"value": _finite(diagnostics.distinct_2)}
    numbers["effective_sample_size"] = {"value": _finite(diagnostics.effective_sample_size)}
    return numbers


def _number(diagnostics: Diagnostics, name: str) -> dict[str, Any]:
    """A number, with the reasons to distrust it if there are any."""
    number, warnings = _plain(getattr(diagnostics, name)), diagnostics.warnings_of(name)
    return number | ({"warnings": warnings} if warnings else {})


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {name: _finite(value) for name, value in estimate._asdict().items()}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
