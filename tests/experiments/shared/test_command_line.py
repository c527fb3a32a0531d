"""Command lines: a refusal is one line and exit code 2, a fault of the program a traceback."""

import io
import os
import re
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.shared.argument_types import Count, Out, chosen
from experiments.shared.claims import ClaimArguments, Finding
from experiments.shared.command_line import Arguments, given_options, run_script
from experiments.shared.refusals import blamed, resume_hint
from experiments.shared.run_folder import new_folder
from model.common.checks import positive
from tests.experiments.scripts import NAMES, arguments_of, main_of


@dataclass(frozen=True)
class Coin(Arguments):
    """Flip a coin."""

    flips: Count = 3
    """Number of flips."""
    out: Out = Path("runs")
    """Folder in which the run folder is made."""


def code_of(main, *words, arguments=Coin):
    with pytest.raises(SystemExit) as exit_:
        run_script(main, arguments, words)
    return exit_.value.code


def never(args):
    raise AssertionError(f"ran with {args}")


def test_a_script_that_ends_well_exits_with_0(capsys):
    assert code_of(lambda args: print(args.flips), "--flips", "5") == 0
    assert capsys.readouterr().out == "5\n"


def test_a_warning_is_one_line_without_its_place_in_the_source(capsys):
    before = warnings.formatwarning
    warning = UserWarning("few\ndraws"), UserWarning, "f", 3
    assert code_of(lambda _: print(warnings.formatwarning(*warning))) == 0
    assert capsys.readouterr().out == "Warning: few draws\n\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("refused", [False, True])
def test_a_script_without_a_stdout_ends_as_with_one(refused, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert code_of(print, *(["--flips", "0"] if refused else [])) == (2 if refused else 0)


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (SimpleNamespace(name="experiments.coin.__main__"), "python -m experiments.coin"),
        (None, "python my_coin.py"),
    ],
)
def test_the_help_names_the_command_that_runs(spec, command, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["my_coin.py"])
    assert code_of(never, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {command} [-h]")


def test_a_letter_that_the_terminal_lacks_does_not_end_a_run(monkeypatch):
    """A report of an hour's run has signs and emojis, and a terminal may have ASCII alone."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert code_of(lambda args: print("1 ± 2 \N{PARTY POPPER}")) == 0
    assert written.getvalue() == rb"1 \xb1 2 \U0001f389" + b"\n"


@pytest.mark.parametrize(("words", "number"), [([], 1), (["--threads", "2"], 2)])
def test_a_script_runs_with_its_number_of_threads(words, number, monkeypatch):
    numbers = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    assert code_of(lambda args: print(args), *words, arguments=ClaimArguments) == 0
    assert numbers == [number]
    assert code_of(lambda args: print(args)) == 0
    assert numbers == [number]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flips", "0"], "--flips is 0, expected a whole number of at least 1"),
        (
            ["--flips", "1000000000000"],
            "--flips is 1000000000000, expected .* at most 1,000,000: more would take days",
        ),
        (["--flips", "2", "--flips", "3"], "--flips is given twice"),
        (["--flips=2", "--flips", "3"], "--flips is given twice"),
        (["--out", ""], "--out is empty"),
        (["--out="], "--out is empty"),
        (["--out", "\udcff"], r"--out: '\\udcff' is no text in UTF-8"),
    ],
)
def test_impossible_command_line_is_one_line_and_exit_code_2(words, message, capsys):
    assert code_of(never, *words) == 2
    printed = capsys.readouterr()
    assert not printed.out
    [line] = printed.err.splitlines()
    assert re.match(message, line)


def test_debug_shows_where_it_is_refused(capsys):
    assert code_of(never, "--debug", "--flips", "0") == 2
    assert "Traceback" in (printed := capsys.readouterr().err)
    assert printed.splitlines()[-1].startswith("--flips is 0")


def of_library(_):
    positive("beta", -1)


def of_a_path(_):
    Path("nowhere").read_text()


def of_memory(_):
    torch.empty(10**15)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (of_library, "beta is -1"),
        (of_a_path, "No such file or directory: 'nowhere'"),
        (of_memory, "can't allocate memory"),
    ],
)
def test_refusal_of_the_library_is_one_line(main, message, capsys):
    assert code_of(main) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def fault_of_a_line(_):
    chosen(None, [])  # a TypeError that a line of the project runs into


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (fault_of_a_line, TypeError),
        (never, AssertionError),
        (lambda _: {}["x"], KeyError),
        (lambda _: int("x"), ValueError),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(main, error):
    with pytest.raises(error):
        run_script(main, Coin, [])


def test_an_option_is_blamed_for_a_refusal_inside():
    with pytest.raises(SystemExit, match="--beta: beta is -1"), blamed("--beta"):
        of_library(None)
    with pytest.raises(ValueError, match="invalid literal"), blamed("--beta"):
        int("x")
    with (
        pytest.raises(SystemExit, match="--beta: invalid literal"),
        blamed("--beta", (ValueError,)),
    ):
        int("x")


def test_a_claim_that_did_not_hold_is_exit_code_1():
    assert code_of(lambda _: [Finding("yes", True), Finding("no", False)]) == 1
    assert code_of(lambda _: [Finding("yes", True)]) == 0


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_says_how_to_go_on(signum, code, capsys):
    def main(_):
        with resume_hint(lambda: "To go on: flip"):
            os.kill(os.getpid(), signum)
            for _ in range(10**6):
                pass

    before = signal.getsignal(signum)
    assert code_of(main) == code
    assert capsys.readouterr().err == f"Ended by {signal.Signals(signum).name}. To go on: flip\n"
    assert signal.getsignal(signum) is before


def test_an_interrupt_that_leaves_nothing_says_so(capsys):
    def main(_):
        with resume_hint(lambda: ""):
            raise KeyboardInterrupt

    assert code_of(main) == 130
    message = "Ended by SIGINT. There is nothing to resume from: start it again.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("inside", [of_library, lambda _: blamed_library()])
def test_late_failure_says_how_to_continue(inside, capsys):
    def main(args):
        with resume_hint(lambda: "To go on: flip"):
            inside(args)

    assert code_of(main) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r".*beta is -1, expected [^.]*\. To go on: flip", line)


def blamed_library():
    with blamed("--beta"):
        of_library(None)


def test_given_options_are_the_fields_that_were_named():
    assert given_options(
        ["--kl-budget", "3", "--no-merge", "--beta=1", "--lora.rank", "3", "-1"]
    ) == {"kl_budget", "merge", "beta", "lora.rank"}
    for twice in (["--kl-budget", "1", "--kl_budget", "1"], ["--merge", "--no-merge"]):
        with pytest.raises(SystemExit, match="is given twice"):
            given_options(twice)


@pytest.mark.parametrize(
    ("script", "line", "message"),
    [
        *(
            (script, "--only", "--only has no effect where it names nothing")
            for script in ("step_cost", "guide_zoo")
        ),
        ("rlhf", "--preferences FILE --seeds 2", "--seeds has no effect with --preferences"),
        ("rlhf", "--preferences FILE --num-preferences 30", "--num-preferences has no effect"),
        ("rlhf", "--inference map --aggregation minimum", "--aggregation has no effect with an"),
        ("rlhf", "--held-out 0.5", "--held-out has no effect without --preferences"),
        (
            "guide_zoo",
            "--worlds two-modes --steps 3",
            "--steps has no effect without the world eight-tokens",
        ),
        ("guide_zoo", "--worlds film-reviews --max-iter 3", "--max-iter has no effect"),
        ("guide_zoo", "--worlds two-modes --particles 3", "--particles has no effect"),
    ],
)
def test_option_without_effect_is_refused(script, line, message, tmp_path, capsys):
    (tmp_path / "file").write_text("the film was")
    words = line.replace("FILE", str(tmp_path / "file")).split()
    assert code_of(never, *words, arguments=arguments_of(script)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", NAMES)
def test_the_help_has_the_first_line_of_the_script(script, capsys):
    main = main_of(script)
    with pytest.raises(SystemExit) as end:
        run_script(main, arguments_of(script), ["--help"])
    assert end.value.code == 0
    title = sys.modules[main.__module__].__doc__.partition("\n")[0]
    assert title in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("script", NAMES)
def test_an_unknown_option_is_refused(script, capsys):
    positional = [] if script == "compare" else [["positional"]]  # which takes run folders
    for words in (["--nonsense"], ["--seedx", "1"], *positional):
        assert code_of(never, *words, arguments=arguments_of(script)) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    "refusal", [SystemExit("refused"), ValueError("refused"), KeyboardInterrupt()]
)
def test_refusal_leaves_no_folder(tmp_path, refusal):
    def main(out, text):
        with new_folder(Coin(out=out), "coin") as folder:
            assert folder.arguments.is_file()
            if text:
                (folder.path / "results.jsonl").write_text(text)
            raise refusal

    with pytest.raises(type(refusal)):
        main(tmp_path / "a" / "b", "")
    assert not (tmp_path / "a").exists()
    with pytest.raises(type(refusal)):
        main(tmp_path, "{}")
    assert len([*tmp_path.glob("coin*/results.jsonl")]) == 1


def test_a_folder_that_the_system_does_not_make_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (tmp_path / "nowhere").stat())
    with (
        pytest.raises(SystemExit, match=r"--out .*runs: .*No such file"),
        new_folder(Coin(out=tmp_path / "runs"), "coin"),
    ):
        pass
