"""Run the programs of the READMEs and of CONTRIBUTING."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guides import FineTuned, Recurrent
from guides.guide import OtherGuideError
from guides.saved import load_guide
from inference import OBJECTIVES, SAMPLERS, Enumeration, fit
from model import AGGREGATIONS, AlignmentModel, TextReward, vader_sentiment
from model.prior.named_priors import load_prior
from tests.forks import FORKS
from tests.guides.test_examples import assert_trains
from tests.inference.objectives.uses import ONE_OF_EACH_USE
from tests.readmes import READMES

ROOT = Path(__file__).parents[1]


def programs(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def program(name, part):
    """The program of a document that has `part`."""
    (text,) = [text for text in programs(name) if part in text]
    return text


def test_readme_program(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = program("README.md", "range(100)")
    exec(text.replace("range(100)", "range(2)"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_contributed_reward(prior, prompts):
    names = {"prior": prior}
    exec(program("CONTRIBUTING.md", "def exclaims"), names)
    assert Enumeration(names["model"], prompts).log_likelihood.eq(0).all()


def test_contributed_guide(prior, prompts):
    names = {}
    exec(program("CONTRIBUTING.md", "class Unigram"), names)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    guide = names["Unigram"](prior)
    distribution = guide.distribution(prompts)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total))
    result = fit(model, guide, prompts, num_steps=30, progress=False)
    assert result.metrics[-1]["elbo"] > result.metrics[0]["elbo"]


@pytest.mark.parametrize(
    "objective", [name for name in ONE_OF_EACH_USE if not OBJECTIVES[name].needs_twist]
)
def test_plain_callable_trains_by_every_kind_of_objective(prior, prompts, objective):
    names = {"prior": prior}
    exec(program("CONTRIBUTING.md", "tuned = copy"), names)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    start = {
        name: parameter.clone() for name, parameter in names["tuned"].network.named_parameters()
    }
    entry = OBJECTIVES[objective]
    result = fit(
        model,
        names["guide"],
        prompts[: entry.max_prompts],
        num_steps=2,
        objective=entry(num_particles=4),
        progress=False,
    )
    assert len(result.metrics) == 2
    assert all(
        not torch.equal(start[name], parameter)
        for name, parameter in names["tuned"].network.named_parameters()
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plain_callable_is_a_proposal_of_every_sampler(prior, prompts, sampler):
    names = {"prior": prior}
    exec(program("CONTRIBUTING.md", "tuned = copy"), names)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    options = {"log_bound": 3.4} if SAMPLERS[sampler].needs_bound else {}
    posterior = SAMPLERS[sampler].sample(
        model, prompts, guide=names["guide"], num_samples=512, **options
    )
    assert posterior.response.shape[1:] == (len(prompts), prior.max_new_tokens)


def test_contributed_objective(prior, prompts):
    names: dict = {}
    exec(program("CONTRIBUTING.md", "class TrajectoryBalance"), names)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    guide, truth = FineTuned(prior), Enumeration(model, prompts)
    start = truth.kl_guide_posterior(guide).mean()
    objective = names["TrajectoryBalance"](32)
    fit(model, guide, prompts, num_steps=60, objective=objective, progress=False)
    assert truth.kl_guide_posterior(guide).mean() < 0.7 * start


def test_contributed_sampler(prior, prompts):
    """Weighted draws against the exact posterior, and the estimate of Z."""
    names: dict = {}
    exec(program("CONTRIBUTING.md", "def defensive_sampling"), names)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), beta=0.3)
    guide, truth = Recurrent(prior), Enumeration(model, prompts)
    torch.manual_seed(0)
    for proposal in (None, guide):
        posterior = names["defensive_sampling"](model, prompts, guide=proposal, num_samples=20_000)
        assert (posterior.log_z - truth.log_z).abs().max() < 0.05
        places = prior.vocab_size ** torch.arange(prior.max_new_tokens)
        index, rows = ((r[:, 0] * places).sum(-1) for r in (posterior.response, truth.support))
        weight = torch.zeros(prior.vocab_size**prior.max_new_tokens, dtype=torch.float64)
        weight = weight.index_add(0, index, posterior.probability[:, 0])[rows]
        assert 0.5 * (weight - truth.log_posterior[:, 0].exp()).abs().sum() < 0.05
    assert posterior.effective_sample_size.min() > 1_000


STOPS_ONCE = """
import signal
from pathlib import Path


def short(texts):
    if [*Path().glob("trained/*/checkpoints/step-*")] and not Path("stopped").exists():
        Path("stopped").touch()
        signal.raise_signal(signal.SIGINT)
    return [-0.1 * len(text) for text in texts]
"""
"""File of a reward that interrupts the run after the first checkpoint."""


def run_script_in(folder, words):
    """Run a script of a folder with arguments; the output goes to `printed.txt`."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = [str(word) for word in words]
    output = os.open("printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.mark.slow
def test_package_outside_the_repository_adds_choices_to_the_command_line(tmp_path):
    """An own guide, objective and sampler, a run with each, its resume, and the saved guide."""
    package, parts = tmp_path / "mypackage", ("class Unigram", "class TrajectoryBalance")
    package.mkdir()
    texts = [program("CONTRIBUTING.md", part) for part in (*parts, "def defensive_sampling")]
    for name, text in zip(("guide", "objective", "sampler"), texts, strict=True):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    lines = ["guide import Unigram", "objective import TrajectoryBalance"]
    lines = [f"from mypackage.{line}" for line in [*lines, "sampler import defensive_sampling"]]
    (package / "__init__.py").write_text("\n".join(lines))
    script = tmp_path / "my_steer.py"
    script.write_text(program("CONTRIBUTING.md", "runpy.run_module"))
    (tmp_path / "reward.py").write_text(STOPS_ONCE)

    def run(*words):
        process = FORKS.Process(target=run_script_in, args=(tmp_path, words))
        process.start()
        process.join()
        return process.exitcode, (tmp_path / "printed.txt").read_text()

    def steer(*options):
        return run("my_steer.py", "--max-new-tokens", "3", *options)

    alone = [sys.executable, tmp_path / "my_steer.py", "--help"]  # which imports all that it needs
    shown = subprocess.run(alone, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert shown.stdout.startswith(b"usage: python ")
    few = ["--samples", "16", "--prior-draws", "16", "--checkpoint-every", "1", "--out", "trained"]
    few += ["--steps", "2", "--reward", "function:reward.py:short"]
    _, printed = steer("--guide", "unigram", "--objective", "my-balance", *few)
    assert "Ended by SIGINT. To go on: python my_steer.py --resume" in printed
    code, printed = run(*shlex.split(printed.rpartition("To go on: python ")[2]))
    assert code == 0, printed
    (folder,) = tmp_path.glob("trained/*/guide")
    proposal = ["--proposal", folder, "--budget", "64", "--out", "drawn"]
    code, printed = steer("--sample", "defensive", *proposal)
    assert code == 0, printed
    with pytest.raises(OtherGuideError, match="is of a guide of the family 'unigram', expected"):
        load_guide(folder, load_prior("film-reviews", max_new_tokens=3))


@pytest.mark.slow
def test_readme_swaps_objectives_and_guides(capsys):
    text = program("README.md", "num_steps=100")
    names: dict = {}
    exec(text.replace("num_steps=100", "num_steps=5, progress=False"), names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "LeaveOneOut_ELBO",
        "FDivergence",
        "SquaredResidual",
        "LoRA",
        "Recurrent",
        "MeanField",
        "Twisted",
        "log",
    ]
    assert (names["posterior"].log_z - names["truth"].log_z).abs().max() < 0.3


def test_reward_of_the_readme_is_divided_by_beta():
    names: dict = {}
    exec(program("model/README.md", "def shortness"), names)
    prompts = names["prior"].encode(["the film was"])
    truth = Enumeration(names["model"], prompts)
    texts = [row[0] for row in names["prior"].decode(truth.support, prompts)]
    assert truth.log_likelihood[:, 0].tolist() == [-len(text) / 2 for text in texts]


def test_readme_of_the_model_chooses_a_posterior(capsys):
    exec(program("model/README.md", "match_moments("), {})
    printed = capsys.readouterr().out
    assert "attained, target 0.6, multiplier" in printed
    assert printed.splitlines()[-1].startswith("log Z")


def test_reward_of_a_column_is_absent_without_an_answer(capsys):
    exec(program("model/README.md", "right_beginning"), {})
    assert capsys.readouterr().out == "tensor([ True, False])\n"


def test_readme_of_the_model_reads_prompts(capsys):
    exec(program("model/README.md", "read_prompts("), {})
    assert capsys.readouterr().out == "('the film was', 'the plot was') ('good', None)\n"


def test_readme_of_the_model_infers_a_reward_from_preferences(capsys):
    exec(program("model/README.md", "read_preferences("), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(AGGREGATIONS)
    assert ["good" in line for line in lines] == [
        name != "marginal-likelihood" for name in AGGREGATIONS
    ]


def test_guide_of_the_readme_trains(prior, prompts):
    (program,) = programs("guides/README.md")
    names = {}
    exec(program, names)
    assert_trains(names["Tuned"](prior), prior, prompts)


def test_readme_of_inference_trains_on_preferences(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(program("inference/direct_preferences/README.md", "fit_preferences"), {})
    first, last = map(float, capsys.readouterr().out.split())
    assert last < first


def test_readme_draws_from_the_allowed_tokens():
    names: dict = {}
    exec(program("inference/samplers/README.md", "TokenRejection("), names)
    posterior, prompts = names["posterior"], names["prompts"]
    assert names["constraint"].holds(prompts, posterior.response)[posterior.log_weight > -9].all()
    truth = Enumeration(names["model"], prompts)
    assert (posterior.log_z - truth.log_z).abs().item() < 0.5


def test_readme_compares_the_target_of_grpo_with_the_posterior(capsys):
    exec(program("inference/targets/README.md", "TARGETS"), {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.1


def test_pyro_computes_the_truth(capsys):
    exec(program("inference/README.md", "TraceEnum_ELBO"), {})
    by_pyro, by_enumeration = re.findall(
        r"log Z by Pyro (\S+) by Enumeration (\S+)", capsys.readouterr().out
    )[0]
    assert float(by_pyro) == pytest.approx(float(by_enumeration), abs=1e-10)


def test_every_program_of_a_readme_is_run_here():
    """Programs by README: a new program needs a test above."""
    counts = {path.relative_to(ROOT).as_posix(): len(programs(path)) for path in READMES}
    assert {path: count for path, count in counts.items() if count} == {
        "README.md": 2,
        "model/README.md": 5,
        "guides/README.md": 1,
        "inference/direct_preferences/README.md": 1,
        "inference/README.md": 1,
        "inference/objectives/README.md": 1,
        "inference/samplers/README.md": 1,
        "inference/svi/README.md": 1,
        "inference/targets/README.md": 1,
    }


def test_trackers_of_the_inference_readme_take_a_fit():
    names: dict = {}
    exec(program("inference/svi/README.md", "Trackers"), names)
    assert names["trackers"]._step == 5
