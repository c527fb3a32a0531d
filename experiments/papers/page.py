"""The verdict on each claim, and the page: a table of verdicts, then a heading for each paper."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum

from experiments.papers.paper import Paper
from experiments.papers.runner import Measurement
from experiments.shared.claims import NOISY, Finding

WIDTH = 100
HEAD = """# Papers

Claims of the literature, each with one command that tests the claim and the numbers measured here.
`python -m experiments.papers` runs the commands and writes this page from the findings that the
scripts print. `--only KEY` measures one entry again.

A claim is in our words, and as far as a small world can test the claim. If a sentence of the claim
begins with "Here", the verdict is on this sentence. Numbers after ± are standard errors. Numbers in
brackets are the limits of a finding, fixed in the script. A case is a random reward, with a random
guide or prior where the claim has one; a mean over cases can hold where a single case does not.
Other processors give other last digits.

| verdict | meaning |
|---|---|
| held | every finding in support of the claim held, and no finding speaks against the claim |
| partly | some findings support the claim, others speak against the claim or are too noisy |
| not | no finding supports the claim |
| too noisy | the numbers are within two standard errors of their limits, more over few runs |

| source | equations of the claim |
|---|---|
| paper | read in the paper or in its authors' code |
| abstract | derived here; the claim is in the abstract |
| TRL | read in TRL's documentation, which cites the paper |
"""


class Verdict(Enum):
    """Verdict on a claim."""

    HELD = "held"
    PARTLY = "partly"
    NOT = "not"
    NOISY = "too noisy"


def supporting(paper: Paper, findings: list[Finding]) -> list[Finding]:
    """Findings in support of the claim."""
    return [
        finding
        for finding in findings
        if not _names(paper.against, finding)
        and (not paper.supports or _names(paper.supports, finding))
    ]


def opposing(paper: Paper, findings: list[Finding]) -> list[Finding]:
    """Findings against the claim."""
    return [finding for finding in findings if _names(paper.against, finding)]


def _names(parts: Sequence[str], finding: Finding) -> bool:
    return any(part in finding.statement for part in parts)


def verdict(paper: Paper, findings: list[Finding]) -> Verdict:
    """Verdict from the findings of the paper's command."""
    support = supporting(paper, findings)
    is_noisy = [not held and statement.endswith(NOISY) for statement, held in support]
    fails = [not held and not noisy for (_, held), noisy in zip(support, is_noisy, strict=True)]
    counters = any(held for _, held in opposing(paper, findings))
    if all(held for _, held in support) and support:
        return Verdict.PARTLY if counters else Verdict.HELD
    if any(held for _, held in support):
        return Verdict.PARTLY
    if support and not any(fails) and not counters:
        return Verdict.NOISY
    return Verdict.NOT


def page(papers: Mapping[str, Paper], measurements: Mapping[str, Measurement]) -> str:
    """Text of the page, in Markdown."""
    verdicts = {
        key: verdict(paper, measurements[paper.command].findings) for key, paper in papers.items()
    }
    counts = Counter(verdicts.values())
    total = ", ".join(f"{counts[each]} {each.value}" for each in Verdict if counts[each])
    commands = {paper.command for paper in papers.values()}
    seconds = sum(measurements[command].seconds for command in commands)
    used = ", ".join(sorted({measurements[command].versions for command in commands}))
    about = (
        f"{len(papers)} papers: {total}. All {len(commands)} commands take {seconds / 60:.0f} "
        f"minutes on one CPU core. Measured with {used}."
    )
    rows = [
        f"| [{paper.title}](#{anchor(paper.title)}) | `{key}` | {paper.source.split()[0]} "
        f"| {verdicts[key].value} |"
        for key, paper in papers.items()
    ]
    table = ["| paper | key | source | verdict |", "|---|---|---|---|", *rows]
    parts = [section(p, measurements[p.command], verdicts[key]) for key, p in papers.items()]
    return "\n".join([HEAD, fill(about), "", *table, "", "\n\n".join(parts)]) + "\n"


def section(paper: Paper, measurement: Measurement, judged: Verdict) -> str:
    """Heading, claim, command and findings of a paper."""
    number = paper.source.partition(" ")[2]
    link = f"[arXiv {number}](https://arxiv.org/abs/{number})" if number else ""
    support = supporting(paper, measurement.findings)
    against = opposing(paper, measurement.findings)
    parts = [f"## {paper.title}", ""]
    parts += [link, ""] if link else []
    parts += [fill(f"Claim: {paper.claim}"), "", f"    python -m experiments.{paper.command}", ""]
    caveat = f" {paper.caveat}" if any(held for _, held in against) else ""
    parts += [fill(f"Verdict: **{judged.value}**.{caveat}"), ""]
    parts += [item(mark_of(finding), finding.statement) for finding in support]
    parts += [
        item("against the claim" if held else "against the claim, not seen", statement)
        for statement, held in against
    ]
    return "\n".join(parts)


def mark_of(finding: Finding) -> str:
    """Result of a finding in a word; a statement that ends with `NOISY` says so itself."""
    if finding.held:
        return "held"
    return "not seen" if finding.statement.endswith(NOISY) else "failed"


def item(mark: str, statement: str) -> str:
    """Item of a list, wrapped."""
    return textwrap.fill(
        f"{mark}: {escaped(statement)}",
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def escaped(text: str) -> str:
    """Text without the signs that Markdown reads as markup."""
    for sign in ("\\", "*", "_", "<", "|"):
        text = text.replace(sign, f"\\{sign}")
    return text


def fill(text: str) -> str:
    """Paragraph of lines of at most 100 characters."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def anchor(title: str) -> str:
    """Anchor of a heading, as GitHub derives anchors."""
    letters = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return letters.replace(" ", "-")
