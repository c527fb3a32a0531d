"""The programs in README and CONTRIBUTING run as they stand there."""

import re
from pathlib import Path

import pyro
import torch

from guides import FineTuned
from inference import Enumeration, FusedOptimizer, fit
from model import AlignmentModel, TextEvidence, vader_sentiment

ROOT = Path(__file__).parents[1]


def programs(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_readme_program(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, _ = programs("README.md")
    assert "range(100)" in program
    exec(program.replace("range(100)", "range(2)"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_contributed_guides(prior, prompts):
    unigram, plain, _ = programs("CONTRIBUTING.md")
    names = {"pyro": pyro, "prior": prior}
    exec(unigram, names)
    exec(plain, names)
    model = AlignmentModel(prior, TextEvidence(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    guide = names["Unigram"](prior)
    distribution = guide.distribution(prompts)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total))
    result = fit(model, guide, prompts, num_steps=30, optimizer=FusedOptimizer(options={"lr": 0.1}), progress=False)
    assert result.metrics[-1]["elbo"] > result.metrics[0]["elbo"]
    assert len(fit(model, names["guide"], prompts, num_steps=2, progress=False).metrics) == 2


def test_contributed_objective(prior, prompts):
    names: dict = {}
    exec(programs("CONTRIBUTING.md")[2], names)
    model = AlignmentModel(prior, TextEvidence(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    guide, truth = FineTuned(prior), Enumeration(model, prompts)
    start = truth.kl_guide_posterior(guide).mean()
    optimizer = FusedOptimizer(options={"lr": 3e-3})
    fit(model, guide, prompts, num_steps=60, objective=names["TrajectoryBalance"](32), optimizer=optimizer, progress=False)
    assert truth.kl_guide_posterior(guide).mean() < 0.7 * start


def test_readme_swaps_algorithms(capsys):
    _, program = programs("README.md")
    assert "num_steps=100" in program
    exec(program.replace("num_steps=100", "num_steps=20, progress=False"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["LeaveOneOut_ELBO", "FDivergence", "LogVariance", "log"]
