"""`--config`: arguments from YAML or from a run; the command line decides; faults are named."""

import json
from dataclasses import asdict, make_dataclass, replace
from pathlib import Path

import pytest

from experiments.shared.command_line import run_script
from experiments.shared.run_folder import RunFolder
from experiments.steer.arguments import Steer
from experiments.steer.guide_options import GuideOptions, check_options, dataclass_of
from experiments.steer.training import fit_settings
from guides import GUIDES, Family

YAML = """
prior: film-reviews
reward: [vader, 0.05*length]
constraint: words:film
guide: lora
max-new-tokens: 5
beta: 1
time: 90s
merge: true
lora:
  rank: 4
n-gram.n: 3
prompts_file: null
"""


def parsed(*words):
    """Arguments by a command line."""
    seen = []
    with pytest.raises(SystemExit) as end:
        run_script(seen.append, Steer, [str(word) for word in words])
    assert end.value.code == 0
    return seen[0]


def refused(capsys, *words):
    """Message of a refusal."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda args: None, Steer, [str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def write(tmp_path):
    def write_it(text, name="my.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_it


def test_yaml_sets_options_and_the_command_line_comes_before(write):
    args = parsed("--config", write(YAML), "--beta", "0.3", "--lora.alpha", "2")
    lora, n_gram = (type(each) for each in (GuideOptions().lora, GuideOptions().n_gram))
    assert args == Steer(
        reward=("vader", "0.05*length"),
        constraint=("words:film",),
        guide="lora",
        options=GuideOptions(lora=lora(rank=4, alpha=2.0), n_gram=n_gram(n=3)),
        max_new_tokens=5,
        beta=0.3,
        time="90s",
        merge=True,
    )
    assert isinstance(args.beta, float)


def test_the_arguments_of_a_run_are_taken_and_changed(tmp_path):
    own = Steer(
        prompts=("- a", "b"),
        guide="lora",
        options=GuideOptions(lora=type(GuideOptions().lora)(rank=2)),
        steps=3,
        out=tmp_path,
        seed=4,
    )
    folder = RunFolder.new(tmp_path, "steer")
    folder.write_arguments(own)
    assert parsed("--config", folder.arguments) == own
    assert parsed("--config", folder.arguments, "--seed", "5") == replace(own, seed=5)


def test_a_path_that_is_not_saved_is_given_again(write, capsys):
    file = write(json.dumps({"arguments": {"prior": "{elsewhere}/prior", "steps": 3}}))
    assert "prior is {elsewhere}/prior, a path that the file" in refused(capsys, "--config", file)
    assert parsed("--config", file, "--prior", "smollm2").prior == "smollm2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("betta: 0.3", "has 'betta', no option of steer: do you mean 'beta'?"),
        ("lora: {rang: 3}", "has 'lora.rang', no option of steer: do you mean 'lora.rank'?"),
        ("resum: RUN", "has 'resum', no option of steer"),
        ("zzzzzz: 3", "has 'zzzzzz', no option of steer. --help lists the options"),
        ("steps: many", 'steps is "many", expected a whole number'),
        ("steps: true", "steps is true, expected a whole number"),
        ("steps: -3", "--steps is -3, expected a whole number of at least 1"),
        ("beta: small", 'beta is "small", expected a number'),
        ("prompts: [2, 3]", "prompts is [2, 3], expected texts"),
        ("guide: adapter", "--guide is 'adapter', expected one of"),
        ("merge: 1", "merge is 1, expected true or false"),
        ("out: 3", "out is 3, expected a path"),
        ("reward: []\nbeta: 1", ": --beta has no effect without a --reward, which beta divides"),
        ("steps: 3\ntime: 9s", ": --steps has no effect with --responses or --time"),
        ("- a", "expected names of options with values"),
        ("a: [", "expected YAML or JSON"),
        ("", "expected names of options with values"),
    ],
)
def test_faults_of_a_file_are_named(write, text, message, capsys):
    assert message in refused(capsys, "--config", write(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("budget: 512\nbeta: 0.3", "--sample smc"),
        ("limit: 2\nprompt-column: question", "--dataset q.jsonl"),
        ("clip-norm: 1.0", "--learning-rate 1e-3"),
        ("reward: []\nbeta: 0.3", "--reward vader"),
    ],
)
def test_a_key_may_need_an_option_of_the_command_line(write, text, line):
    assert parsed("--config", write(text), *line.split()) != parsed(*line.split())


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("steps: 3", "--time 9s", Steer(time="9s")),
        ("step-kl: 0.1", "--learning-rate 1e-3", Steer(learning_rate=1e-3)),
        ("factor: [length]", "--factor", Steer()),
        ("reward: [length]", "--reward", Steer(reward=())),
        ("divide: prompts", "--seed 0", Steer()),
    ],
)
def test_the_command_line_undoes_a_key(write, text, line, expected):
    """An option beside which the key has no effect, or an empty list."""
    assert parsed("--config", write(text), *line.split()) == expected


def test_an_option_without_effect_beside_a_file_is_refused_with_the_file_as_the_reason(
    write, capsys
):
    file = write("time: 9s")
    message = refused(capsys, "--config", file, "--steps", "3")
    assert message.startswith("beside the arguments of --config or --resume, --steps has no effect")
    assert refused(capsys, "--config", file, "--clip-norm", "1").startswith("--clip-norm has no")


def test_config_and_resume_do_not_go_together(write, capsys):
    message = refused(capsys, "--config", write(YAML), "--resume", Path("runs"))
    assert "--config is given with --resume" in message


def test_a_match_before_training_takes_the_micro_batch_of_steps():
    steps, own = ("--micro-batch", 4), ("--soft-prompt.match-micro-batch", 2)
    for words, expected in (((), None), (steps, 4), (own, 2), ((*steps, *own), 2)):
        options = parsed("--guide", "soft-prompt", *words).guide_options
        assert options["match_micro_batch"] == expected
    assert "match_micro_batch" not in parsed("--guide", "lora", *steps).guide_options


def test_options_of_a_guide_are_its_keyword_only_arguments(monkeypatch):
    """A required one is refused where its guide is chosen, and other guides go on."""

    def mine(prior, depth: int = 1, *, width: int = 3, hook: object = None):
        """My guide.

        Args:
            width: Number of units.

        Raises:
            ValueError: If there are none.
        """

    def without_default(prior, *, width: int, hook: object): ...

    options = dataclass_of("mine", mine)
    assert asdict(options()) == {"width": 3}
    assert options.__doc__.rstrip().endswith("    width: Number of units.")
    monkeypatch.setitem(GUIDES, "other", Family(without_default, ""))
    other = dataclass_of("other", without_default)
    given = make_dataclass("Given", [("other", other)])
    assert asdict(other()) == {"width": None}
    for width, fault in ((None, "width has no default: expected"), (3, "hook .* no words")):
        with pytest.raises(SystemExit, match=f"--other.{fault}"):
            check_options("other", given(other(width)))


def test_options_of_the_fit_reach_the_fit(tmp_path):
    options = {"learning_rate": 0.1, "clip_norm": 2.0, "micro_batch": 3, "seed": 5}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    settings = fit_settings(parsed(*words), RunFolder(tmp_path))
    assert {name: settings[name] for name in options} == options
