"""The page of papers agrees with its entries, and every command exists and parses.

No command runs here, and no number of the page is compared: other processors have other digits.
"""

import re

import pytest

from experiments.identities.__main__ import CHECKS
from experiments.papers import __main__ as script
from experiments.papers import runner
from experiments.papers.__main__ import Papers, main
from experiments.papers.page import Verdict, anchor, opposing, page, supporting, verdict
from experiments.papers.paper import FOLDER, PAPERS, Paper
from experiments.papers.runner import ROOT, Measurement, findings_of, measure, read, write
from experiments.shared.claims import NOISY, Finding, report
from experiments.shared.command_line import _parse
from experiments.trainer_targets.trainers import OURS
from tests.experiments.scripts import FILES, arguments_of

PAGE, RECORD = ROOT / "docs" / "papers.md", ROOT / "docs" / "papers.json"
COMMANDS = sorted({paper.command for paper in PAPERS.values()})
ONLY = {"identities": CHECKS, "trainer_targets": OURS}
"""Names that `--only` takes, by script."""
YES, NO = Finding("size: 1 (above 0)", True), Finding("size: -1 (above 0)", False)
NOISE = Finding(f"size: 0.1 ± 0.2 (above 0), {NOISY}", False)
VERSIONS = "torch 2, pyro-ppl 1"


@pytest.mark.parametrize("command", COMMANDS)
def test_script_of_each_command_exists_and_its_arguments_parse(command):
    paper = Paper("title", "claim", "abstract", command)
    assert paper.script in FILES
    args = _parse(paper.words[1:], arguments_of(paper.script))
    if only := getattr(args, "only", ()):
        assert set(only) <= ONLY[paper.script].keys()


def test_every_check_of_the_identities_has_a_paper():
    tested = {word for command in COMMANDS for word in Paper("", "", "abstract", command).words}
    assert CHECKS.keys() - tested == set()


def test_there_are_thirty_papers_each_with_a_claim_and_a_number_at_arxiv_of_its_form():
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml"))
    keys = re.findall(r"^(\S+):$", text, re.MULTILINE)
    assert sorted(keys) == sorted(PAPERS), "a key given twice drops a paper"
    assert len(PAPERS) >= 30
    titles = [paper.title for paper in PAPERS.values()]
    assert len({anchor(title) for title in titles}) == len(titles)
    for paper in PAPERS.values():
        assert paper.claim.endswith(".")
        assert bool(paper.caveat) == bool(paper.against)
        assert re.fullmatch(r"(paper|abstract|TRL)( \d{4}\.\d{4,5})?", paper.source)


def test_page_is_written_from_the_entries_and_from_the_record():
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [paper.title for paper in PAPERS.values()]
    measurements = read(RECORD)
    assert sorted(measurements) == COMMANDS
    assert page(PAPERS, measurements) == text


def test_each_part_of_a_statement_is_in_a_finding_of_the_record():
    measurements = read(RECORD)
    for paper in PAPERS.values():
        findings = measurements[paper.command].findings
        support = supporting(paper, findings)
        assert len(support) >= len(paper.supports)
        assert support or opposing(paper, findings)
        for part in (*paper.supports, *paper.against):
            assert any(part in finding.statement for finding in findings), part


def test_findings_are_read_as_scripts_print_them():
    findings = [YES, NO, Finding("yes and no: 1", True)]
    assert findings_of(report("Claim: c\nSource: s\nPrinted", ["a table"], findings)) == findings


@pytest.mark.parametrize(
    ("support", "against", "expected"),
    [
        ([YES, YES], [], Verdict.HELD),
        ([YES], [False], Verdict.HELD),
        ([YES], [True], Verdict.PARTLY),
        ([YES, NO], [], Verdict.PARTLY),
        ([YES, NOISE], [], Verdict.PARTLY),
        ([NOISE, NOISE], [], Verdict.NOISY),
        ([NOISE, NO], [], Verdict.NOT),
        ([NO], [], Verdict.NOT),
        ([], [True], Verdict.NOT),
    ],
)
def test_verdict_weighs_findings_for_and_against(support, against, expected):
    paper = Paper("title", "claim", "abstract", "command", against=("counter",))
    counters = [Finding("counter", held) for held in against]
    assert verdict(paper, [*support, *counters]) == expected
    assert opposing(paper, [*support, *counters]) == counters


def test_findings_that_are_not_named_are_left_out():
    paper = Paper("title", "claim", "abstract", "command", supports=("size",))
    other = Finding("another: 1", False)
    assert supporting(paper, [YES, other]) == [YES]
    assert verdict(paper, [YES, other]) == Verdict.HELD


def test_page_has_claim_command_and_signs_of_markup_in_their_place():
    command = "identities --only dera"
    paper = Paper("A et al. 2020: p*", "The claim.", "abstract 2020.12345", command)
    findings = [Finding("KL(q || p*) < 1", True)]
    text = page({"a": paper}, {paper.command: Measurement(findings, 60.0, VERSIONS)})
    assert "| [A et al. 2020: p*](#a-et-al-2020-p) | `a` | abstract | held |" in text
    assert "\n    python -m experiments.identities --only dera\n" in text
    assert r"- held: KL(q \|\| p\*) \< 1" in text
    assert "1 papers: 1 held." in text
    assert "https://arxiv.org/abs/2020.12345" in text


def test_caveat_is_on_the_page_if_a_finding_speaks_against_the_claim():
    paper = Paper("A", "C.", "abstract", "log_z", against=("counter",), caveat="But not always.")
    for held in (True, False):
        findings = [YES, Finding("counter: 1", held)]
        text = page({"a": paper}, {paper.command: Measurement(findings, 60.0, VERSIONS)})
        assert ("**partly**. But not always." in text) == held
        assert ("- against the claim: counter: 1" in text) == held


def test_failed_findings_and_noise_are_told_apart_on_the_page():
    paper = Paper("A", "C.", "abstract", "log_z")
    text = page({"a": paper}, {paper.command: Measurement([YES, NO, NOISE], 60.0, VERSIONS)})
    marks = re.findall(r"^- ([\w ]+): size", text, re.MULTILINE)
    assert marks == ["held", "failed", "not seen"]


def test_record_is_read_as_it_was_written(tmp_path):
    measurements = {"a --b": Measurement([YES, NOISE], 1.5, VERSIONS)}
    write(tmp_path / "record.json", measurements)
    assert read(tmp_path / "record.json") == measurements
    assert read(tmp_path / "none.json") == {}


def test_script_that_is_refused_has_no_measurement(tmp_path, monkeypatch):
    """Code 2 is that of a script which is refused, `test_command_line.py`."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "small.py").write_text("raise SystemExit(2)")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="ended with code 2 and 0 findings"):
        measure(Paper("title", "claim", "abstract", "small --only nothing"))


def test_only_the_chosen_paper_is_measured_again(monkeypatch, tmp_path, capsys):
    counts = dict.fromkeys(COMMANDS, 0)

    def count(paper):
        counts[paper.command] += 1
        return Measurement([YES], 1.0, VERSIONS)

    monkeypatch.setattr(script, "measure", count)
    monkeypatch.setattr(script, "DOCS", tmp_path)
    main(Papers(only=("dera",)))
    assert "No page" in capsys.readouterr().out
    assert sum(counts.values()) == counts[PAPERS["dera"].command] == 1
    main(Papers(run="missing"))
    assert set(counts.values()) == {1}
    assert "## " in (tmp_path / "papers.md").read_text(encoding="utf-8")
    main(Papers(only=("gao-2022", "coste-2023")))
    assert counts[PAPERS["gao-2022"].command] == 2
    main(Papers(run="none"))
    assert sum(counts.values()) == len(COMMANDS) + 1
