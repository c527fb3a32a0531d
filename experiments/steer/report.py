"""Report of a `steer` run: the same content as text for the terminal and as one HTML page."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.run_folder import RunFolder, element, html_figure
from experiments.steer.expectations import Expectations, Measurement, PosteriorMeasurement, observe
from inference import Estimate, Program, response_distribution
from model import AlignmentModel, Prompts

Sample = tuple[str, float]
"""Whole text, and its reward; -inf if the text is forbidden."""

IDENTITY = (
    "ELBO = E_q[log p0 + r/beta - log q] = log Z - KL(q || p*) = (E_q[r] - beta KL(q || p0)) / beta"
)
"""The identity without factors."""


@dataclass(frozen=True)
class Report:
    """Result of a run.

    Attributes:
        title: one line.
        beta: reward per nat.
        before: measurement of the prior as guide.
        after: measurement of the trained guide.
        posterior: measurement of the posterior.
        samples: texts with their rewards, by origin.
        seconds: wall time of the fit.
        stopped_early: reason why the fit stopped before its last step.
    """

    title: str
    beta: float
    before: Measurement
    after: Measurement
    posterior: PosteriorMeasurement
    samples: Mapping[str, Sequence[Sample]]
    seconds: float
    stopped_early: str | None = None

    @property
    def expectations(self) -> list[Expectations]:
        """Expectations under prior, guide and posterior; empty for a model without factors."""
        each = (self.before.expectations, self.after.expectations, self.posterior.expectations)
        return [entry for entry in each if entry is not None]

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of the table: quantity, prior, guide, posterior."""
        before, after = self.before.diagnostics, self.after.diagnostics
        kl_prior = (str(after.kl_guide_prior), str(self.posterior.kl_posterior_prior))
        forward = map(_or_unknown, (before.kl_posterior_guide, after.kl_posterior_guide))
        sizes = (f"{each.effective_sample_size:.0f}" for each in (before, after))
        return [
            *self._likelihood_rows(),
            ("KL(. || p0)", "0", *kl_prior),
            ("ELBO", str(before.elbo), str(after.elbo), f"log Z = {before.log_z}"),
            ("KL(. || p*)", str(before.kl_guide_posterior), str(after.kl_guide_posterior), "0"),
            ("KL(p* || .)", *forward, "0"),
            ("entropy", str(before.entropy), str(after.entropy), ""),
            ("distinct-2", f"{before.distinct_2:.3f}", f"{after.distinct_2:.3f}", ""),
            ("effective sample size", *sizes, ""),
            ("Pareto k-hat", f"{before.pareto_k:.2f}", f"{after.pareto_k:.2f}", ""),
            *self._factor_rows(),
        ]

    def _likelihood_rows(self) -> list[tuple[str, ...]]:
        """E[r]; with factors also E[log likelihood] if it is finite."""
        measured = (self.before.diagnostics, self.after.diagnostics, self.posterior)
        likelihood = [each.log_likelihood for each in measured]
        if not self.expectations:
            return [("E[r]", *(str(estimate.times(self.beta)) for estimate in likelihood))]
        rows = [("E[r]", *(str(each.reward) for each in self.expectations))]
        if all(math.isfinite(estimate.value) for estimate in likelihood):
            rows.append(("E[log likelihood]", *map(str, likelihood)))
        return rows

    def _factor_rows(self) -> list[tuple[str, ...]]:
        """Means of features, and the share of forbidden responses."""
        every, rows = self.expectations, []
        for name in every[0].moments if every else ():
            moments = (str(each.moments[name]) for each in every)
            rows.append((without_folders(f"E[{name}]"), *moments))
        if any(each.forbidden for each in every):
            rows.append(("forbidden", *(f"{each.forbidden:.1%}" for each in every)))
        return rows

    def conclusion(self) -> str:
        """One sentence on the remaining gap."""
        before, after = self.before.diagnostics, self.after.diagnostics
        start, left = before.kl_guide_posterior, after.kl_guide_posterior
        if self.expectations and math.isinf(start.value):
            prior, guide, _ = (each.forbidden for each in self.expectations)
            old, new = map(_or_unknown, (before.kl_posterior_guide, after.kl_posterior_guide))
            return (
                f"Of the guide's draws {guide:.1%} are forbidden, of the prior's {prior:.1%}: "
                f"KL(q || p*) is infinite; KL(p* || q) went from {old} to {new} nats in "
                f"{self.seconds:.0f} s of SVI."
            )
        share = left.value / start.value if start.value > 0 else float("nan")
        return (
            f"Of the {start.value:.3f} nats between prior and posterior, {left} are left "
            f"({share:.0%}) after {self.seconds:.0f} s of SVI."
        )

    def notes(self) -> list[str]:
        """Warnings."""
        return [f"Stopped early at {self.stopped_early}"] if self.stopped_early else []

    def text(self) -> str:
        """Report for the terminal."""
        table = [HEAD, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        end = ["", self.conclusion(), *self.notes()]
        return "\n".join(["", self.title, "", *samples_text(self.samples), *lines, *end])

    def write(self, folder: RunFolder, figures: Sequence[Path]) -> None:
        """Write the report as a page that holds the figures, and print the report."""
        identity = "ELBO = log Z - KL(q || p*)" if self.expectations else IDENTITY
        parts = [element("p", self.conclusion(), "conclusion")]
        parts += [element("p", note, "note") for note in self.notes()]
        parts += [element("p", f"{identity}. Each number has its standard error.")]
        parts += [html_table(self.rows(), HEAD), *map(html_figure, figures)]
        parts += [element("h2", "Samples and their rewards")]
        for origin, samples in self.samples.items():
            rows = [(_shown(reward), text) for text, reward in samples]
            parts += [element("h3", origin), html_table(rows, kind="num")]
        folder.write_page(self.title, parts)
        print(self.text())
        print(f"\nOpen {folder.report}; the guide is in {folder.guide}, which --proposal takes.")


HEAD = ("nats per response", "prior", "guide", "posterior")


def sample_texts(model: AlignmentModel, program: Program, prompts: Prompts) -> list[Sample]:
    """Draw two texts for each prompt from a program, and score the texts under the model."""
    response = response_distribution(program, prompts).sample(torch.Size([2]))
    return scored_texts(model, prompts, response)


def scored_texts(model: AlignmentModel, prompts: Prompts, response: Tensor) -> list[Sample]:
    """Whole texts with their rewards, prompt by prompt, for responses `[M, N, T]`."""
    texts = model.prior.decode(response, prompts)
    reward, is_forbidden, _ = observe(model, prompts, response)
    rewards = reward.masked_fill(is_forbidden, -torch.inf).tolist()
    return [(texts[m][n], rewards[m][n]) for n in range(len(prompts)) for m in range(len(response))]


def samples_text(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Lines for a terminal: each origin, its texts with their rewards, an empty line."""
    lines = []
    for origin, texts in samples.items():
        lines += [f"{origin}:", *(f"  {_shown(reward)}  {text}" for text, reward in texts), ""]
    return lines


def without_folders(text: str) -> str:
    """The text with each absolute path that exists on this machine cut to its last part."""

    def last_part(match: re.Match[str]) -> str:
        path = Path(match[0])
        return path.name if path.exists() else match[0]

    return re.sub(r"(?<![\w./])/[^\s:,'\"]+", last_part, text)


def _shown(reward: float) -> str:
    return "forbidden" if reward == -math.inf else f"{reward:+.2f}"


def _or_unknown(estimate: Estimate | None) -> str:
    return "unknown" if estimate is None else str(estimate)


def html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "") -> str:
    """HTML table of plain texts; the first column is of a kind, `num` for numbers."""
    lines = ["<tr>" + "".join(element("th", cell) for cell in head) + "</tr>"] if head else []
    for first, *others in rows:
        cells = [element("td", first, kind), *(element("td", cell) for cell in others)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"
