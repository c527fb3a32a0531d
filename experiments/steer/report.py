"""Report of a `steer` run: the same content as text for the terminal and as one HTML page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.run_folder import RunFolder
from experiments.steer.expectations import Expectations, Measurement, observe
from inference import Diagnostics, Estimate, Program, response_distribution
from inference.diagnostics.prior_alone import PriorAlone
from model import AlignmentModel, Prompts
from model.common.paths import without_folders

Sample = tuple[str, float]
"""Whole text, and its reward; -inf if the text is forbidden, NaN if no reward applies."""

IDENTITY = (
    "ELBO = E_q[log p0 + r/beta - log q] = log Z - KL(q || p*) = (E_q[r] - beta KL(q || p0)) / beta"
)
"""The identity without factors."""
SYMBOLS = {
    "log_z": "log Z and everything made from it",
    "kl_guide_posterior": "KL(. || p*)",
    "kl_posterior_guide": "KL(p* || .)",
    "kl_posterior_prior": "KL(p* || p0)",
    "kl_guide_prior": "KL(. || p0)",
    "elbo": "ELBO",
    "log_likelihood": "E[r]",
    "entropy": "entropy",
}
"""Names in a note of estimates that may be unreliable, by the attribute of `Diagnostics`."""
MARK = " (?)"
"""End of an unreliable number. A note of the report has the reason."""
ONE_VALUE = (
    "all draws to a prompt have one value, so that the error of the mean is unknown; of a rare "
    "value that no draw has, log Z and the divergences know nothing either"
)
"""Reason to distrust a mean whose standard error is 0."""
REMEDY = (
    f"Numbers with {MARK.strip()} gain from more draws (--samples, --prior-draws), a larger "
    "--beta, or a guide nearer to the posterior."
)
"""Last remark if a number is marked."""
ALONE = "KL(. || p*), prior draws alone"
ACCEPTED = "KL(p* || .), accepted draws alone"
"""Row of rejection sampling, which needs a bound of the reward."""


@dataclass(frozen=True)
class Report:
    """Result of a run.

    Attributes:
        title: one line.
        beta: reward per nat.
        before: measurement of the prior as guide, or of the guide that starts from a student.
        after: measurement of the trained guide.
        posterior: expectations under the posterior.
        samples: texts with their rewards, by origin.
        seconds: wall time of the fit.
        has_factors: True if the log likelihood is not r/beta at all prompts.
        fit_notes: sentences about the end and the health of the fit.
        start: distribution that `before` measures, in a word: prior or student.
    """

    title: str
    beta: float
    before: Measurement
    after: Measurement
    posterior: Expectations
    samples: Mapping[str, Sequence[Sample]]
    seconds: float
    has_factors: bool = False
    fit_notes: Sequence[str] = ()
    start: str = "prior"

    @property
    def head(self) -> tuple[str, ...]:
        """Head of the table."""
        return "nats per response", self.start, "guide", "posterior"

    @property
    def expectations(self) -> tuple[Expectations, Expectations, Expectations]:
        """Expectations under prior or student, guide and posterior."""
        return self.before.expectations, self.after.expectations, self.posterior

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of the table: quantity, prior, guide, posterior."""
        before, after = both = self.before.diagnostics, self.after.diagnostics
        of_start = "0" if self.start == "prior" else shown(before, "kl_guide_prior")
        kl_prior = of_start, shown(after, "kl_guide_prior"), shown(after, "kl_posterior_prior")
        alone = [each.prior_alone for each in both]
        has_bound = any(each.num_accepted is not None for each in alone)
        qualities = *both, after.weights

        def row(name: str, end: str, of: Sequence[Diagnostics | PriorAlone] = both) -> list[str]:
            return [*(shown(each, name) for each in of), end]

        return [
            *self._likelihood_rows(),
            ("KL(. || p0)", *kl_prior),
            ("ELBO", *row("elbo", f"log Z = {shown(after, 'log_z')}")),
            ("KL(. || p*)", *row("kl_guide_posterior", "0")),
            ("KL(p* || .)", *row("kl_posterior_guide", "0")),
            (ALONE, *row("kl_guide_posterior", f"log Z = {shown(alone[1], 'log_z')}", alone)),
            *([(ACCEPTED, *row("kl_posterior_guide", "", alone))] if has_bound else []),
            ("entropy", *row("entropy", "")),
            ("distinct-2", f"{before.distinct_2:.3f}", f"{after.distinct_2:.3f}", ""),
            ("effective sample size", *(f"{each.effective_sample_size:.0f}" for each in qualities)),
            ("Pareto k-hat", *(f"{each.pareto_k:.2f}" for each in qualities)),
            *self._factor_rows(),
        ]

    def _likelihood_rows(self) -> list[tuple[str, ...]]:
        """E[r]; if the log likelihood is another number, also its mean where that is finite."""
        before, after = self.before.diagnostics, self.after.diagnostics
        rows = [("E[r]", *self._expected(each.reward for each in self.expectations))]
        estimates = (before.log_likelihood, after.log_likelihood, after.posterior_log_likelihood)
        if self.has_factors and all(math.isfinite(estimate.value) for estimate in estimates):
            cells = shown(before, "log_likelihood"), shown(after, "log_likelihood")
            rows.append(("E[log likelihood]", *cells, shown(after, "posterior_log_likelihood")))
        return rows

    def _expected(self, estimates: Iterable[Estimate]) -> list[str]:
        """Cells of expectations under prior, guide and posterior, marked if unreliable."""
        both = self.before.diagnostics, self.after.diagnostics
        warnings = [*(d.warnings_of("log_likelihood") for d in both), self.posterior.warnings]
        pairs = zip(estimates, warnings, strict=True)
        return [f"{each}{MARK * (bool(some) or each.is_constant)}" for each, some in pairs]

    def _factor_rows(self) -> list[tuple[str, ...]]:
        """Means of features, and the share of forbidden responses."""
        every, rows = self.expectations, []
        for name in every[0].moments:
            moments = self._expected(each.moments[name] for each in every)
            rows.append((without_folders(f"E[{name}]"), *moments))
        if any(each.forbidden for each in every):
            *others, posterior = (f"{each.forbidden:.1%}" for each in every)
            rows.append(("forbidden", *others, posterior + MARK * bool(self.posterior.warnings)))
        return rows

    def conclusion(self) -> str:
        """One sentence on the remaining gap."""
        before, after = self.before.diagnostics, self.after.diagnostics
        start, left = before.kl_guide_posterior, after.kl_guide_posterior
        if self.has_factors and math.isinf(start.value):
            prior, guide, _ = (each.forbidden for each in self.expectations)
            old, new = (shown(each, "kl_posterior_guide") for each in (before, after))
            return (
                f"Of the guide's draws {guide:.1%} are forbidden, of the {self.start}'s "
                f"{prior:.1%}: KL(q || p*) is infinite; KL(p* || q) went from {old} to {new} nats "
                f"in {self.seconds:.0f} s of SVI."
            )
        is_known = start.is_above(0.0) and math.isfinite(start.value)
        share = f" ({left.value / start.value:.0%})" if is_known else ""
        mark = MARK * bool(before.warnings_of("kl_guide_posterior"))
        return (
            f"Of the {start.value:z.3f}{mark} nats between {self.start} and posterior, "
            f"{shown(after, 'kl_guide_posterior')} are left{share} after "
            f"{self.seconds:.0f} s of SVI."
        )

    def notes(self) -> list[str]:
        """Notes: of the fit, on the prompts of E[r], divergences that rose, unreliable numbers."""
        return [*self.fit_notes, *self._scope(), *self._rises(), *self._distrust()]

    def _scope(self) -> list[str]:
        """Prompts over which E[r] is the mean, if these are not all."""
        scopes = dict.fromkeys(each.scope for each in self.expectations if each.scope)
        return [f"E[r] is a mean{scope}: no reward applies to the others." for scope in scopes]

    def _rises(self) -> list[str]:
        """Divergences of the guide that are larger than those of the start.

        A divergence rises by as much as E_q[log w] or E_p*[log q/p0] falls: log Z and KL(p* || p0),
        in both measurements, are no part of the rise or of its error. The prior as start has a log
        ratio of 0 exactly. The ratio of a student has prior draws in common with the guide's, and
        the error of the difference is too large, if anything.
        """
        before, after = self.before.diagnostics, self.after.diagnostics
        rises = []
        for name, opposite, symbol in (
            ("kl_guide_posterior", "elbo", "KL(q || p*)"),
            ("kl_posterior_guide", "posterior_log_ratio", "KL(p* || q)"),
        ):
            rise = getattr(before, opposite).minus(getattr(after, opposite))
            # an infinite rise is certain: one draw with q > 0 and p* = 0, or the reverse, is proof
            if rise.value == math.inf or rise.is_above(0.0):
                rises.append(
                    f"{symbol} rose from {shown(before, name)} nats of the {self.start} to "
                    f"{shown(after, name)} of the guide: in this direction the guide is further "
                    f"from the posterior than the {self.start}."
                )
        if len(rises) == 2:
            rises.append(
                "Both rose: the gradient has less noise with more --particles in a step, and a "
                "guide from scratch needs more --steps."
            )
        return rises

    def _distrust(self) -> list[str]:
        """Reasons why numbers are marked, with the columns of the numbers."""
        columns: dict[str, list[str]] = {}
        for column, measured in ((self.start, self.before), ("guide", self.after)):
            own = measured.diagnostics
            for source, alone in ((own, ""), (own.prior_alone, ", prior draws alone,")):
                reasons = {name: source.warnings_of(name) for name in SYMBOLS}
                for warning in dict.fromkeys(chain(*reasons.values())):
                    names = [name for name, others in reasons.items() if warning in others]
                    shown_names = ["log_z"] if "log_z" in names else names
                    symbols = " and ".join(SYMBOLS[name] for name in shown_names)
                    of_accepted = shown_names == ["kl_posterior_guide"]
                    suffix = alone.replace("prior", "accepted") if of_accepted else alone
                    text = f"{warning}: {symbols}{suffix} may be far off"
                    columns.setdefault(text, []).append(column)
        notes = [f"{text} (column {', '.join(names)})." for text, names in columns.items()]
        columns = {}
        for column, expected in zip(self.head[1:], self.expectations, strict=True):
            means = {"E[r]": expected.reward} | {f"E[{k}]": v for k, v in expected.moments.items()}
            for symbol, mean in means.items():
                if mean.is_constant:
                    columns.setdefault(without_folders(symbol), []).append(column)
        notes += [f"{key} (column {', '.join(c)}): {ONE_VALUE}." for key, c in columns.items()]
        if self.has_factors:
            end = "means of the posterior may be far off."
            notes += [f"{warning}: {end}" for warning in self.posterior.warnings]
        return [f"{MARK.strip()} {note}" for note in notes]

    def _remarks(self) -> list[str]:
        """Notes, with the remedy at the end if numbers are marked."""
        return [*self.notes(), *[REMEDY] * bool(self._distrust())]

    def text(self) -> str:
        """Report for the terminal."""
        table = [self.head, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.head))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        end = ["", self.conclusion(), *self._remarks()]
        return "\n".join(["", self.title, "", *samples_text(self.samples), *lines, *end])

    def write(self, folder: RunFolder, figures: Sequence[Path]) -> None:
        """Write the report as a page that holds the figures, and print the report."""
        identity = "ELBO = log Z - KL(q || p*)" if self.has_factors else IDENTITY
        table = {"head": self.head, "rows": self.rows(), "samples": with_rewards(self.samples)}
        words = {"conclusion": self.conclusion(), "identity": identity, "notes": self._remarks()}
        folder.write_page("steer/report.html", self.title, **table, **words, pictures=figures)
        print(self.text())
        print(f"\nOpen {folder.report}; the guide is in {folder.guide}, which --proposal takes.")


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
    for origin, pairs in with_rewards(samples).items():
        lines += [f"{origin}:", *(f"  {reward}  {text}" for reward, text in pairs), ""]
    return lines


def with_rewards(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[tuple[str, str]]]:
    """Rewards, as texts, and texts by origin."""
    return {
        origin: [(_shown(reward), text) for text, reward in texts]
        for origin, texts in samples.items()
    }


def _shown(reward: float) -> str:
    if math.isnan(reward):
        return "no reward"
    return "forbidden" if reward == -math.inf else f"{reward:+.2f}"


def shown(diagnostics: Diagnostics | PriorAlone, name: str) -> str:
    """An estimate by name, marked if finite and unreliable; `unknown` for None."""
    estimate = getattr(diagnostics, name)
    if estimate is None:
        return "unknown"
    is_marked = math.isfinite(estimate.value) and bool(diagnostics.warnings_of(name))
    return f"{estimate}{MARK * is_marked}"
