"""The report of a `steer` run: the same content as text for the terminal and as one self-contained HTML page."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.steer.judge import Judged
from inference import Diagnostics, Estimate

Sample = tuple[str, float]


@dataclass(frozen=True)
class Report:
    """What a run found.

    Attributes:
        title: one line that says what was done.
        beta: reward per nat.
        before: diagnostics of q = p0.
        after: diagnostics of the trained guide.
        posterior_log_likelihood: E_p*[r]/beta.
        kl_posterior_prior: KL(p* || p0).
        samples: texts with their rewards, by where they come from.
        seconds: wall time of the fit.
        notes: warnings that a reader should see.
        judged: of prior, guide and posterior, where there are constraints of either kind beside the reward; else none.
    """

    title: str
    beta: float
    before: Diagnostics
    after: Diagnostics
    posterior_log_likelihood: Estimate
    kl_posterior_prior: Estimate
    samples: Mapping[str, Sequence[Sample]]
    seconds: float
    notes: Sequence[str] = ()
    judged: Sequence[Judged] = ()

    def rows(self) -> list[tuple[str, ...]]:
        """The table: quantity, prior, guide, posterior."""
        before, after = self.before, self.after
        log_likelihood = (
            before.log_likelihood,
            after.log_likelihood,
            self.posterior_log_likelihood,
        )
        rewards = [judged.reward for judged in self.judged] or [
            estimate.times(self.beta) for estimate in log_likelihood
        ]
        return [
            ("E[r]", *map(str, rewards)),
            ("KL(. || p0)", "0", str(after.kl_guide_prior), str(self.kl_posterior_prior)),
            ("ELBO", str(before.elbo), str(after.elbo), f"log Z = {before.log_z}"),
            ("KL(. || p*)", str(before.kl_guide_posterior), str(after.kl_guide_posterior), "0"),
            (
                "KL(p* || .)",
                _or_unknown(before.kl_posterior_guide),
                _or_unknown(after.kl_posterior_guide),
                "0",
            ),
            ("entropy", str(before.entropy), str(after.entropy), ""),
            ("distinct-2", f"{before.distinct_2:.3f}", f"{after.distinct_2:.3f}", ""),
            (
                "effective sample size",
                f"{before.effective_sample_size:.0f}",
                f"{after.effective_sample_size:.0f}",
                "",
            ),
            ("Pareto k-hat", f"{before.pareto_k:.2f}", f"{after.pareto_k:.2f}", ""),
            *self._judged_rows(),
        ]

    def _judged_rows(self) -> list[tuple[str, ...]]:
        """What constraints of either kind have come to."""
        if not self.judged:
            return []
        moments = {
            name: [str(judged.moments[name]) for judged in self.judged]
            for name in self.judged[0].moments
        }
        rows = [(without_folders(f"E[{name}]"), *cells) for name, cells in moments.items()]
        if any(judged.forbidden for judged in self.judged):
            rows.append(("forbidden", *(f"{judged.forbidden:.1%}" for judged in self.judged)))
        return rows

    def conclusion(self) -> str:
        """One sentence on what is left of the gap."""
        if self.judged and math.isinf(self.before.kl_guide_posterior.value):
            prior, guide, _ = (judged.forbidden for judged in self.judged)
            before, after = (
                _or_unknown(found.kl_posterior_guide) for found in (self.before, self.after)
            )
            return (
                f"Of the guide's draws {guide:.1%} are forbidden, of the prior's {prior:.1%}: "
                f"KL(q || p*) is infinite; KL(p* || q) went from {before} to {after} nats in {self.seconds:.0f} s of SVI."
            )
        start, left = self.before.kl_guide_posterior, self.after.kl_guide_posterior
        share = left.value / start.value if start.value > 0 else float("nan")
        return (
            f"Of the {start.value:.3f} nats between prior and posterior, {left} are left ({share:.0%}) "
            f"after {self.seconds:.0f} s of SVI."
        )

    def text(self) -> str:
        """For a terminal."""
        head = ("nats per response", "prior", "guide", "posterior")
        table = [head, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["", self.title, ""]
        lines += samples_text(self.samples)
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([*lines, "", self.conclusion(), *self.notes])

    def write_html(self, path: Path, figures: Sequence[Path]) -> None:
        """One page with the figures in it: nothing else is needed to read it."""
        head = "<tr><th>nats per response<th>prior<th>guide<th>posterior</tr>"
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in row)}</tr>" for row in self.rows()
        )
        samples = "".join(
            f"<h3>{html.escape(source)}</h3><table>"
            + "".join(
                f"<tr><td class=num>{_shown(reward)}<td>{html.escape(text)}</tr>"
                for text, reward in samples
            )
            + "</table>"
            for source, samples in self.samples.items()
        )
        pictures = "".join(f"<figure>{_svg(figure)}</figure>" for figure in figures)
        notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in self.notes)
        page = PAGE.format(
            title=html.escape(self.title),
            conclusion=html.escape(self.conclusion()),
            notes=notes,
            identity="ELBO = log Z - KL(q || p*)" if self.judged else IDENTITY,
            table=f"<table>{head}{rows}</table>",
            figures=pictures,
            samples=samples,
        )
        path.write_text(page, encoding="utf-8")


IDENTITY = "ELBO = E<sub>q</sub>[log p0 + r/beta - log q] = log Z - KL(q || p*) = (E<sub>q</sub>[r] - beta KL(q || p0)) / beta"
"""Where all evidence is reward."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }}
.num {{ font-variant-numeric: tabular-nums; width: 4rem; }}
.note {{ color: #a33; }}
figure {{ margin: 1.5rem 0; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
<p><b>{conclusion}</b></p>{notes}
<p>{identity}. Each number with its standard error.</p>
{table}
{figures}
<h2>Samples and their rewards</h2>
{samples}
</html>
"""


def without_folders(text: str) -> str:
    """A text with the paths of this machine in it, those that begin at its root and are there, cut to their last part."""

    def last(found: re.Match[str]) -> str:
        path = Path(found[0])
        return path.name if path.exists() else found[0]

    return re.sub(r"(?<![\w./])/[^\s:,'\"]+", last, text)


def samples_text(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Lines for a terminal: each source, its texts with their rewards, and an empty line."""
    lines = []
    for source, found in samples.items():
        lines += [f"{source}:", *(f"  {_shown(reward)}  {text}" for text, reward in found), ""]
    return lines


def _shown(reward: float) -> str:
    return "forbidden" if reward == -math.inf else f"{reward:+.2f}"


def _or_unknown(estimate: Estimate | None) -> str:
    return "unknown" if estimate is None else str(estimate)


def _svg(path: Path) -> str:
    """The picture without the XML header, to stand inside a page."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
