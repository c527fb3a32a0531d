"""Command lines that `steer` refuses: one line that names the option, and no run folder."""

import re
import shlex

import pytest

from experiments.shared.command_line import run_script
from experiments.steer.__main__ import main, prepare
from experiments.steer.arguments import Steer

FILES = {
    "latin.txt": "café".encode("latin-1"),
    "empty.txt": b"\n",
    "mine.py": b"def bad(texts):\n    1 / 0\n\ndef good(texts):\n    return [1.0] * len(texts)",
    "leaves.py": b"def bad(texts):\n    raise SystemExit(0)",
    "exits.py": b"import sys\nsys.exit(0)",
    "lists.jsonl": b'{"prompt": "the", "answer": "a"}\n' * 9
    + b'{"prompt": "the", "answer": ["a"]}\n',
}
BASE = {"--prompts": "'the film was' the", "--max-new-tokens": "3", "--samples": "20"}
TRAINED = {"--particles": "4", "--prior-draws": "40"}
LONG = " ".join(["the film was"] * 7)
NONE = "has no effect where it names nothing"

REFUSALS = {
    # guides
    "--guide fixed": "--guide fixed has nothing to train: add --sample",
    "--guide lora --lora.target-modules (": "--lora.target-modules has .* no regular expression",
    f"--guide soft-prompt --prompts 'the film' '{LONG}'": "virtual tokens, 22 of the prompt and",
    "--guide tabular --max-new-tokens 31": "with --max-new-tokens=31",
    "--guide n-gram --checkpoint-activations": "--checkpoint-activations has no effect with",
    "--guide n-gram --n-gram.n 0": "--guide n-gram: n is 0",
    "--n-gram.n 3": "--n-gram.n is for --guide n-gram, got --guide fine",
    "--merge": "--merge is for --guide lora, got --guide fine-tuned",
    "--shard both": "--shard both is for several processes: start with `torchrun",
    "--divide prompts": "--divide has no effect without torchrun: leave",
    # objectives
    "--objective contrastive-twist": "contrastive-twist with --guide fine-tuned: .*has no twist",
    "--objective contrastive-twist --guide lora": "a guide such as --guide twisted",
    "--objective reward-to-go-value --guide n-gram": "has no `hidden`",
    "--particles 1": "--particles 1 with --objective leave-one-out: --particles is 1, expected",
    # rewards, constraints, factors, moments
    "--reward taste": r"--reward 'taste': expected \[WEIGHT",
    "--reward 1e308*vader": "reward '1e308.vader' is .*Scale the reward$",
    "--reward function:mine.py:bad": "the function .*mine.py:bad raised ZeroDivisionError",
    "--reward function:leaves.py:bad": "the function .*leaves.py:bad raised SystemExit: 0",
    "--reward function:exits.py:f": "--reward 'function:exits.py:f': cannot import .*SystemExit",
    "--reward classifier:folder:x": "--reward 'classifier:folder:x': ",
    "--constraint fluency:folder>=1 --objective forward-kl": "--constraint 'fluency:folder>=1': ",
    "--moment preferences:folder=1": "--moment 'preferences:folder': ",
    "--constraint": f"--constraint {NONE}",
    "--moment": f"--moment {NONE}",
    "--constraint words:was": "leave-one-out descends .* choose one of wake-phi, .*--penalty",
    "--constraint words:zzz --objective forward-kl": "none of 40 draws of the prior after .* meets",
    "--penalty 3": "--penalty 3 softens --constraint, which is not given",
    "--constraint words:good --penalty 3 --sample smc": "--penalty is for SVI",
    "--constraint words:good --penalty 1 --kl-budget 1": "--penalty is given with a budget",
    "--moment words:good=0.5 --kl-budget 1": "--moment moves the posterior",
    "--moment words:good=1.5": "--moment: no finite multipliers give .* words:good 1.5",
    "--moment words:film=7 --objective forward-kl": "use --constraint",
    "--constraint words:zzz --moment words:good=0.5 --objective forward-kl": "loosen the",
    # columns of a data set that there is none of
    "--reward accuracy:solution": "--reward 'accuracy:solution': .* needs the column",
    "--reward 2*accuracy:solution": r"--reward '2\*accuracy:solution': .*'solution'.* are: none",
    "--constraint accuracy:solution --penalty 1": "--constraint 'accuracy:solution>=1': .* needs",
    "--moment accuracy:solution=0.5": "--moment 'accuracy:solution': .* needs the column",
    "--reward accuracy:solution --kl-budget 1": "--reward 'accuracy:solution': .* needs the column",
    "--factor answer-likelihood": "--factor 'answer-likelihood': .*needs the column 'answer'",
    # a list among the answers, in a row that is not measured
    "--reward accuracy --dataset lists.jsonl": r"--reward 'accuracy': .* answer \['a'\] \(list\)",
    "--factor answer-likelihood --dataset lists.jsonl": r"--factor .*: column 'answer' .* \['a'\]",
    # budgets
    "--kl-budget 1 --beta 0.1": "--beta has no effect with a budget",
    "--kl-budget 1 --min-reward 0.5": "--kl-budget and --min-reward are both given",
    "--min-reward 2": r"--min-reward: E\[r\] is asked to be 2 of reward, and ranges from",
    "--factor marginal-likelihood:R --kl-budget 1": "--factor .*:R depends on beta, which a budget",
    "--steps 3 --time 90s": "--steps has no effect with --responses or --time",
    "--responses 99 --time 90s": "--responses has no effect with --time",
    "--responses 7": "--responses 7 is less than the 8 responses of one step",
    "--time 9s --learning-rate 1e-3": "--learning-rate falls to 0 at the last",
    "--learning-rate 1 --step-kl 1": "--step-kl has no effect with --learning-rate",
    "--reward --constraint words:a --beta 1": "--beta has no effect without a --reward",
    "--reward --factor answer-likelihood --kl-budget 1": "--kl-budget has no effect without a --re",
    "--clip-norm 1": "--clip-norm has no effect without --learning-rate",
    # prompts
    "--prompts": "--prompts is empty",
    f"--prompts '{LONG * 7}'": "--prompts: prompt 0 has",
    "--prompts-file latin.txt": "--prompts-file.*latin.txt",
    "--prompts-file empty.txt": "has no prompts",
    "--prompts a --prompts-file latin.txt": "--prompts has no effect with --prompts-file",
    "--prompts a --dataset x": "--prompts has no effect with --prompts-file or --dataset",
    "--prompts-file latin.txt --dataset x": "--prompts-file has no effect with --dataset",
    "--prompt-column x": "--prompt-column has no effect without --dataset",
    "--limit 3": "--limit has no effect without --dataset",
    # samplers
    "--budget 10": "--budget has no effect without --sample",
    "--proposal x": "--proposal has no effect without --sample",
    "--sample enumeration --budget 9": "--budget has no effect with a sampler that lists all",
    "--sample enumeration --guide tempered": "--guide has no effect with a sampler that lists all",
    "--sample smc --guide fixed --proposal x": "--guide has no effect with --proposal",
    "--sample best-of-n --beta 1": "--beta has no effect with a sampler .* without --factor or --m",
    "--guide lora --sample smc": "--sample trains nothing: train --guide lora without it",
    **{
        f"--sample smc {option}": f"{option.split()[0]} has no effect with --sample"
        for option in (
            *("--steps 3", "--particles 3", "--step-kl 1", "--learning-rate 1"),
            *("--objective trace", "--prior-draws 10", "--checkpoint-every 10"),
        )
    },
    "--sample smc --proposal folder": "--proposal folder: ",
    "--sample rejection --reward function:mine.py:good": "rejection: .*: use --sample quasi-rej",
    "--sample rejection --beta 1e-3 --budget 2": "Draw more, use a better guide",
    "--sample quasi-rejection --budget 1": "--budget = 1 leaves no draw",
    "--sample best-of-n --budget 1": "--budget = 1 and n = 16, expected 1 <= n <=",
}
"""Messages, as patterns, by command line."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    (place / "folder").mkdir()
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize(
    "line",
    [
        "--sample best-of-n --factor length --beta 1",
        "--sample best-of-n --moment words:good=0.5 --beta 1",
        "--reward --factor marginal-likelihood:R --beta 1",
    ],
)
def test_a_beta_that_divides_a_reward_beside_a_factor_or_a_tilt_is_allowed(line):
    with pytest.raises(SystemExit) as end:
        run_script(lambda args: None, Steer, line.split())
    assert end.value.code == 0


def test_arguments_of_python_without_effect_are_refused():
    with pytest.raises(SystemExit, match="--step-kl has no effect with --learning-rate: leave it"):
        prepare(Steer(step_kl=0.1, learning_rate=1e-3))


@pytest.mark.parametrize("line", REFUSALS)
def test_refusal_names_the_option_and_leaves_no_folder(
    line, place, grammar_folder, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    others = BASE if "--sample " in line else BASE | TRAINED
    if "prompts-file" in line or "--dataset" in line:
        others = {name: value for name, value in others.items() if name != "--prompts"}
    words = [f"{name} {value}" for name, value in others.items() if f"{name} " not in f"{line} "]
    command = f"{line} {' '.join(words)} --prior {grammar_folder} --out runs --threads 1"
    with pytest.raises(SystemExit) as end:
        run_script(main, Steer, shlex.split(command))
    message = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert re.search(REFUSALS[line], message), message
    assert not re.search("num_|_sampling|`(Constraint|LoRA|Twisted|WakePhi)", message)
    assert not (place / "runs").exists()
