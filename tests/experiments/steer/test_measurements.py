"""The numbers of a run as data, and the model card beside the guide."""

import json
import math
import re
from dataclasses import replace

import pytest
import yaml

from experiments.shared.run_folder import RunFolder
from experiments.steer.__main__ import main
from experiments.steer.expectations import Expectations
from experiments.steer.measurements import write_measurements
from guides import GUIDES
from inference import Estimate
from tests.experiments.steer.small import SHORT
from tests.experiments.steer.test_report import changed, report  # noqa: F401

ARGS = replace(SHORT, steps=2, samples=16, prior_draws=64, max_new_tokens=4, guide="lora")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run of LoRA on the embedded prior."""
    return main(replace(ARGS, out=tmp_path_factory.mktemp("runs")))


def read(folder):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(folder.measurements.read_text(), parse_constant=refuse)


def test_the_column_of_the_prior_is_the_prior_whatever_the_guide_starts_at(folder, tmp_path):
    """Tables of a mean field start uniform, 30 nats from the prior."""
    prior = read(main(replace(ARGS, guide="mean-field", out=tmp_path)))["prior"]
    assert prior["kl_guide_prior"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert prior["elbo"]["value"] == pytest.approx(prior["log_likelihood"]["value"], abs=1e-5)
    for name, number in read(folder)["prior"].items():
        assert prior[name]["value"] == pytest.approx(number["value"], abs=1e-5)


def test_measurements_are_the_numbers_of_the_report(folder):
    numbers, page = read(folder), folder.report.read_text()
    for where, name in (
        ("prior", "elbo"),
        ("guide", "elbo"),
        ("guide", "kl_guide_posterior"),
        ("guide", "kl_posterior_guide"),
        ("guide", "reward"),
        ("posterior", "log_z"),
        ("posterior", "reward"),
    ):
        entry = numbers[where][name]
        assert str(Estimate(entry["value"], entry["standard_error"])) in page, name
    assert numbers["beta"] == ARGS.beta


def test_numbers_that_are_not_finite_are_texts(report, tmp_path):  # noqa: F811
    infinite = changed(report.after, kl_guide_posterior=Estimate(math.inf, math.nan))
    expectations = Expectations(Estimate(1.0, 0.1), 0.25, {"words:a": Estimate(0.5, 0.1)})
    part = replace(report, after=infinite._replace(expectations=expectations))
    write_measurements(RunFolder(tmp_path), part)
    guide = read(RunFolder(tmp_path))["guide"]
    assert guide["kl_guide_posterior"] == {"value": "inf", "standard_error": "nan"}
    assert float(guide["kl_guide_posterior"]["value"]) == math.inf
    assert guide["reward"] == {"value": 1.0, "standard_error": 0.1}
    assert guide["forbidden"] == {"value": 0.25}
    assert guide["E[words:a]"]["value"] == 0.5


def test_the_model_card_has_the_facts_of_the_run(folder):
    text = (folder.guide / "README.md").read_text()
    assert not folder.merged.exists()
    _, front_matter, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front_matter)
    assert metadata["base_model"] == "film-reviews"
    assert metadata["library_name"] == "peft"
    assert "lora" in metadata["tags"]
    numbers = read(folder)["guide"]
    for name in ("log_z", "kl_guide_posterior", "kl_posterior_guide"):
        entry = numbers[name]
        assert str(Estimate(entry["value"], entry["standard_error"])) in body, name
    for row in ("| rewards r | vader |", "| beta | 0.1 |", '| prompts (2) | "The film was"'):
        assert row in body
    assert re.search(r"\| versions \| torch \d", body)


def test_the_code_of_the_model_card_runs(folder, monkeypatch, capsys):
    text = (folder.guide / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder.path)
    exec(code, {})
    assert capsys.readouterr().out.count("The film was") == 4


def test_the_merged_network_has_a_card_with_code_of_its_own(tmp_path, monkeypatch, capsys):
    folder = main(replace(ARGS, steps=1, merge=True, out=tmp_path))
    text = (folder.merged / "README.md").read_text()
    assert 'library_name: "transformers"' in text
    assert "KL(q \\|\\| p*)" in text
    monkeypatch.chdir(folder.path)
    capsys.readouterr()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, {})
    assert capsys.readouterr().out.count("The film was") == 4


def test_every_family_names_the_library_of_its_format():
    libraries = {name: family.library for name, family in GUIDES.items()}
    other = {name: library for name, library in libraries.items() if library != "elbo-rl"}
    assert other == {"fine-tuned": "transformers", "lora": "peft", "soft-prompt": "peft"}
