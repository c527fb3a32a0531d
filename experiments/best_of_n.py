"""Best of n, its distillation and SVI on one plane of reward against KL to the prior.

Question: best of n needs no training and is hard to beat; how much of what the posterior would have given does it give?
Claim: the best of n prior draws is at most log n - (n-1)/n nats from the prior, and no less where rewards do not tie (Beirami
et al. 2024), beats a draw of the prior in at most n/(n+1) of cases, and lies below the posteriors of all beta, which nothing
exceeds, but not far below (Gui et al. 2024). A guide can learn it (Amini et al. 2024): that is put to the test where responses
are listed. On text the steps that there is time for leave both guides well below what they aim at, as the table shows.

Where every response is listed, all is exact: the law of the best of n, by order statistics with ties, the posteriors, and the
guides' reward and KL. On the embedded prior all is measured: rewards and win rates of groups of n, and their KL by the law of
the reward in other draws; the formula and its correction for ties are beside it.

Printed: for each n, KL, bound, reward, that of the posterior at the same KL, and win rate; where guides by SVI and by
distillation come to, with standard errors over seeds (of the estimates on the embedded prior). Written: both planes.

    python -m experiments.best_of_n
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.shared import figures
from experiments.shared.argument_types import DISTINCT, Count, Out, Positive, Seeds, Threads, count
from experiments.shared.claims import Finding, finished, largest, report
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.tables import cell, mean_and_error, text_table
from experiments.shared.training import early_stops, train
from experiments.shared.workers import set_threads
from guides import FineTuned
from inference import (
    BestOfN_ELBO,
    Enumeration,
    Estimate,
    LeaveOneOut_ELBO,
    PriorSample,
    diagnose,
    random_state,
    sample_prior,
)
from inference.order_statistics import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_log_ratio,
    best_of_n_win_rate,
    best_of_n_win_rate_bound,
    level_cdf,
)
from model import AlignmentModel, Prompts, grammar_prior
from model.prior.named_priors import load_prior
from model.registry import REWARDS

CLAIM = "best of n is within log n - (n-1)/n nats of the prior, wins at most n/(n+1), and lies a little below the posteriors"
SOURCE = "Beirami et al. 2024, arXiv 2401.01879; Gui et al. 2024, arXiv 2406.00832; Amini et al. 2024, arXiv 2407.06057"
EXACT = 1e-10
TEXT = "on text"
HALF = 8
"""Blocks of half the draws, for the jackknife."""
NEAR = 0.8
"""Of the reward that a posterior gains at the same KL: best of n with as much is near the frontier."""
LEARNED = 0.2
"""Of the prior's KL to the law of the best of n: a guide that has less left, on the grammar, has learned it."""


@dataclass(frozen=True)
class BestOfN(Arguments):
    """Compare best of n, its distillation and SVI, by reward and KL to the prior."""

    sizes: Annotated[tuple[Annotated[int, count(1, 100_000)], ...], DISTINCT] = (
        1,
        2,
        4,
        8,
        16,
        32,
        64,
    )
    """n."""
    distilled: Annotated[tuple[Annotated[int, count(2, 100_000)], ...], DISTINCT] = (4, 16)
    """n of the guides that learn the best of n on the grammar; the last of them on the embedded prior."""
    betas: Annotated[tuple[Positive, ...], DISTINCT] = (0.6, 0.3)
    """Of the guides by SVI on the grammar."""
    text_beta: Positive = 0.1
    """Of the guide by SVI on the embedded prior."""
    steps: Count = 120
    """Of SVI on the grammar."""
    particles: Annotated[int, count(4)] = 64
    """Responses a step there; half as many on the embedded prior."""
    seeds: Seeds = 3
    """Guides of each kind on the grammar."""
    text_steps: Annotated[int, count(0)] = 30
    """On the embedded prior; 0 trains no guides there."""
    draws: Annotated[int, count(64)] = 4096
    """Of the embedded prior; half of them tell its law of the reward, the others make groups of n."""
    threads: Threads | None = 1
    """CPU threads; None for torch's choice. More help small networks little, and do harm where cores are shared."""
    out: Out = Path("runs")
    """The run folder is made in here."""


class Place(NamedTuple):
    """A law on the plane: KL to the prior, nats, and expected reward, with standard errors (NaN where it is exact)."""

    kl: Estimate
    reward: Estimate


class Best(NamedTuple):
    """The best of n.

    Attributes:
        place: on the plane; measured, or the next two.
        kl: by order statistics, ties counted right, nats.
        reward: the same.
        frontier: the reward of the posterior with that KL.
        start: that of the prior.
        win_rate: against a prior draw, ties counting half.
    """

    place: Place
    kl: float
    reward: float
    frontier: float
    start: float
    win_rate: Estimate

    @property
    def share(self) -> float:
        """Of what the posterior at the same KL gains in reward, what the best of n gains; NaN where that is nothing."""
        return (
            (self.reward - self.start) / (self.frontier - self.start)
            if self.kl > EXACT
            else math.nan
        )


def check(args: BestOfN) -> None:
    """Exit if the draws do not suffice."""
    largest = 7 * (args.draws // 16)  # what the jackknife leaves of half the draws
    if max(args.sizes) > largest:
        raise SystemExit(
            f"--sizes has {max(args.sizes)}, expected at most {largest} with --draws {args.draws}"
        )
    if max(args.sizes) == 1:
        raise SystemExit("--sizes has no n but 1, expected one above: the best of 1 is the prior")


def main(args: BestOfN) -> list[Finding]:
    check(args)
    set_threads(args.threads)
    with new_folder(args, "best-of-n") as folder:
        with random_state.isolated(0), early_stops() as stops:
            parts = [on_grammar(args, folder), on_text(args, folder)]
        findings = [*(finding for _, found in parts for finding in found), *finished(stops)]
        print(report(CLAIM, SOURCE, [table for table, _ in parts], findings))
        print(f"Figures: {folder.path}")
        return findings


def exact(value: float) -> Estimate:
    return Estimate(value, math.nan)


def on_grammar(args: BestOfN, folder: RunFolder) -> tuple[str, list[Finding]]:
    """Everything by sums over every response."""
    prior = grammar_prior(max_new_tokens=3)
    prompts, reward = prior.encode(["the film was"]), REWARDS["vader"](prior)
    truth = Enumeration(
        AlignmentModel(prior, reward, 1.0), prompts
    )  # at beta 1 the evidence is the reward
    bank = PriorSample.of_enumeration(truth)
    best = {n: exact_best(bank, n) for n in args.sizes}
    guides: dict[str, list[Mapping[str, float]]] = {}
    for beta in args.betas:
        model = AlignmentModel(prior, reward, beta)
        wanted = (truth.log_prior + truth.log_likelihood / beta).log_softmax(0)
        name = f"SVI, beta {beta:g}"
        guides[name] = [
            exact_guide(truth, bank, svi(model, prompts, seed, args), wanted)
            for seed in range(args.seeds)
        ]
    for n in args.distilled:
        model = AlignmentModel(prior, reward, 1.0)
        wanted = truth.log_prior + log_ratio(truth.log_prior, truth.log_likelihood, n)
        made = [distil(model, prompts, n, seed, args) for seed in range(args.seeds)]
        guides[f"distilled, n = {n}"] = [exact_guide(truth, bank, guide, wanted) for guide in made]
    columns = {
        "KL(q||p0)": "kl",
        "E[r]": "reward",
        "posterior's E[r]": "frontier",
        "KL(q||target)": "gap",
    }
    rows = {
        name: [cell(*mean_and_error(runs, key)) for key in columns.values()]
        for name, runs in guides.items()
    }
    places = {
        name: Place(
            Estimate(*mean_and_error(runs, "kl")), Estimate(*mean_and_error(runs, "reward"))
        )
        for name, runs in guides.items()
    }
    figure = plane_figure(bank, best, places, "The grammar, everything exact")
    figures.save(figure, folder.path / "grammar.svg")
    over = largest(run["reward"] - run["frontier"] for runs in guides.values() for run in runs)
    findings = [
        *best_findings(best, "on the grammar"),
        Finding(
            f"no guide on the grammar is above the posteriors, {over:.1g} at most", over <= EXACT
        ),
    ]
    for n in args.distilled:
        gap, error = mean_and_error(guides[f"distilled, n = {n}"], "gap")
        start = (
            -(truth.log_prior.exp() * log_ratio(truth.log_prior, truth.log_likelihood, n))
            .sum()
            .item()
        )
        said = f"distillation leaves {cell(gap / start, error / start)} of KL(p0 || best of {n}) (under {LEARNED:g})"
        findings.append(Finding(said, gap < LEARNED * start))
    title = f"The grammar, exact; guides after {args.steps} steps, {args.seeds} seeds"
    return f"{title}\n{best_table(best)}\n\n{text_table(list(columns), rows)}", findings


def svi(model: AlignmentModel, prompts: Prompts, seed: int, args: BestOfN) -> FineTuned:
    return train(
        FineTuned(model.prior),
        model,
        prompts,
        LeaveOneOut_ELBO(args.particles),
        args.steps,
        learning_rate=2e-3,
        seed=seed,
    )


def distil(model: AlignmentModel, prompts: Prompts, n: int, seed: int, args: BestOfN) -> FineTuned:
    return train(
        FineTuned(model.prior),
        model,
        prompts,
        BestOfN_ELBO(args.particles, n=n),
        args.steps,
        learning_rate=3e-3,
        seed=seed,
    )


def log_ratio(log_prior: Tensor, reward: Tensor, n: int) -> Tensor:
    """log pi_n/p0 of every response, `[S, N]`, from the law of the reward under the prior."""
    prob = log_prior.softmax(0)
    return best_of_n_log_ratio(*level_cdf(reward, prob), n)


def exact_best(bank: PriorSample, n: int) -> Best:
    """The law of the best of n, by order statistics, for one prompt; at beta 1, as in all of this, evidence is reward."""
    prob, reward = bank.log_prior_weight.softmax(0), bank.log_likelihood
    cdf, cdf_left = level_cdf(reward, prob)
    kl = best_of_n_kl(prob, cdf, cdf_left, n).item()
    mean = (prob * best_of_n_log_ratio(cdf, cdf_left, n).exp() * reward).sum().item()
    win_rate = best_of_n_win_rate(prob, cdf, cdf_left, n).item()
    frontier, start = reward_at(bank, kl), (prob * reward).sum().item()
    return Best(Place(exact(kl), exact(mean)), kl, mean, frontier, start, exact(win_rate))


def exact_guide(
    truth: Enumeration, bank: PriorSample, guide: FineTuned, wanted: Tensor
) -> Mapping[str, float]:
    """A guide's place, the posterior's reward at its KL, and KL(q || wanted)."""
    log_guide = truth.log_guide(guide)
    prob = log_guide.exp()
    kl = (prob * (log_guide - truth.log_prior)).sum().item()
    gap = (prob * (log_guide - wanted)).sum().item()
    mean = (prob * truth.log_likelihood).sum().item()
    return {"kl": kl, "reward": mean, "frontier": reward_at(bank, kl), "gap": gap}


def reward_at(bank: PriorSample, kl: float) -> float:
    """The most reward that any law has at this KL to the prior: that of the posterior which is as far, found by bisection.

    No posterior is further than -log P(r = max r); beyond that it is the largest reward.
    """

    def nearer(inverse: float) -> bool:
        return bank.kl(bank.log_likelihood * inverse).value < kl

    low, high = 0.0, 1.0
    while nearer(high):
        low, high = high, 2 * high
        if high > 1e9:
            return bank.log_likelihood.max().item()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if nearer(middle) else (low, middle)
    return bank.frontier([high])[0][1]


def best_table(best: Mapping[int, Best]) -> str:
    """One line for each n. What is measured has a standard error; the columns `exact` are by order statistics, with ties."""
    columns = ["KL", "exact", "bound", "E[r]", "exact", "posterior's", "share", "win rate", "bound"]
    rows = {
        f"best of {n}": [
            cell(*one.place.kl),
            f"{one.kl:.4f}",
            f"{best_of_n_kl_bound(n):.4f}",
            cell(*one.place.reward),
            f"{one.reward:.4f}",
            f"{one.frontier:.4f}",
            cell(one.share),
            cell(*one.win_rate),
            f"{best_of_n_win_rate_bound(n):.4f}",
        ]
        for n, one in best.items()
    }
    return text_table(columns, rows)


def best_findings(best: Mapping[int, Best], where: str) -> list[Finding]:
    """The two bounds, and that the best of n is below the frontier, but near it."""
    slack = largest(one.kl - best_of_n_kl_bound(n) for n, one in best.items())
    wins = largest(
        one.win_rate.value - best_of_n_win_rate_bound(n) - 3 * _error(one.win_rate)
        for n, one in best.items()
    )
    over = largest(one.reward - one.frontier for one in best.values())
    least = min(one.share for one in best.values() if not math.isnan(one.share))
    return [
        Finding(f"no KL {where} is above log n - (n-1)/n", slack <= EXACT),
        Finding(
            f"no win rate {where} is above n/(n+1){' by 3 standard errors' if where == TEXT else ''}",
            wins <= EXACT,
        ),
        Finding(f"no best of n {where} is above the posteriors", over <= EXACT),
        Finding(
            f"best of n {where} gains {least:.0%} of their reward or more (over {NEAR:.0%})",
            least > NEAR,
        ),
    ]


def _error(estimate: Estimate) -> float:
    """The standard error, 0 where the number is exact."""
    return 0.0 if math.isnan(estimate.standard_error) else estimate.standard_error


def on_text(args: BestOfN, folder: RunFolder) -> tuple[str, list[Finding]]:
    """The embedded prior: at most 12 tokens at temperature 0.7, sentiment."""
    prior = load_prior(
        "film-reviews", max_new_tokens=12, temperature=0.7, dtype="float32", device="cpu"
    )
    prompts, reward = prior.encode(["The film was"]), REWARDS["vader"](prior)
    model = AlignmentModel(prior, reward, args.text_beta)
    draws = sample_prior(model, prompts, args.draws, independent=True)
    rewards = args.text_beta * draws.log_likelihood.double()  # [M, 1]
    bank = PriorSample.of_draws(draws.response, rewards)
    best = {n: measured_best(exact_best(bank, n), rewards[:, 0], n) for n in args.sizes}
    places = {}
    if args.text_steps:
        n, num_particles = args.distilled[-1], args.particles // 2
        objectives = {
            f"SVI, beta {args.text_beta:g}": LeaveOneOut_ELBO(num_particles),
            f"distilled, n = {n}": BestOfN_ELBO(num_particles, n=n),
        }
        for name, objective in objectives.items():
            guide = train(
                FineTuned(model.prior),
                model,
                prompts,
                objective,
                args.text_steps,
                learning_rate=1e-4,
            )
            found = diagnose(model, guide, prompts, num_samples=256, prior_sample=draws)
            places[name] = Place(found.kl_guide_prior, found.log_likelihood.times(args.text_beta))
    figure = plane_figure(bank, best, places, "The embedded prior, measured (± 2 s.e.)")
    figures.save(figure, folder.path / "text.svg")
    rows = {}
    for name, place in places.items():
        rows[name] = [
            cell(*place.kl),
            cell(*place.reward),
            f"{reward_at(bank, place.kl.value):.4f}",
        ]
    off = largest(
        abs(one.place.kl.value - one.kl) / one.place.kl.standard_error
        for n, one in best.items()
        if n > 1
    )
    off_reward = largest(
        abs(one.place.reward.value - one.reward) / one.place.reward.standard_error
        for one in best.values()
    )
    above_bound = largest(
        one.place.kl.value - 3 * one.place.kl.standard_error - best_of_n_kl_bound(n)
        for n, one in best.items()
        if n > 1
    )
    findings = [
        *best_findings(best, TEXT),
        Finding(
            f"the KL measured there is that of order statistics to {off:.1f} standard errors (at most 3)",
            off <= 3,
        ),
        Finding(
            f"the reward measured there is to {off_reward:.1f} standard errors (at most 3)",
            off_reward <= 3,
        ),
        Finding(
            "no KL measured there is above log n - (n-1)/n by 3 standard errors", above_bound <= 0
        ),
    ]
    for name, place in places.items():
        furthest = place.kl.value + 3 * place.kl.standard_error
        above = place.reward.value - 3 * place.reward.standard_error - reward_at(bank, furthest)
        findings.append(
            Finding(f"{name} on text is not above the posteriors by 3 standard errors", above <= 0)
        )
    title = f"The embedded prior, {args.draws} draws"
    guides = f"\n\n{text_table(['KL(q||p0)', 'E[r]', 'posterior E[r]'], rows)}" if rows else ""
    return f"{title}\n{best_table(best)}{guides}", findings


def measured_best(exact_one: Best, rewards: Tensor, n: int) -> Best:
    """Groups of n from one half of the draws, placed by the law of the reward in the other half, then with the halves swapped.

    The errors are by a jackknife over sixteenths of the draws, so that they know what the two have in common.

    Args:
        exact_one: the best of n by order statistics, from all the draws.
        rewards: `[M]`, of prior draws.
        n: in a group.
    """
    blocks = rewards.chunk(2 * HALF)
    found = _of_halves(blocks[:HALF], blocks[HALF:], n)
    left_out = []
    for i in range(2 * HALF):
        kept = [
            [block for j, block in enumerate(blocks) if j != i and j // HALF == half]
            for half in range(2)
        ]
        left_out.append(_of_halves(kept[0], kept[1], n))
    spread = torch.stack(left_out)
    error = ((len(spread) - 1) / len(spread) * (spread - spread.mean(0)).square().sum(0)).sqrt()
    kl, mean, win_rate = (
        Estimate(*pair) for pair in zip(found.tolist(), error.tolist(), strict=True)
    )
    return exact_one._replace(place=Place(kl, mean), win_rate=win_rate)


def _of_halves(first: Sequence[Tensor], second: Sequence[Tensor], n: int) -> Tensor:
    """KL, reward and win rate of the best of n, `[3]`: the mean of one half judged by the other, both ways."""
    found = []
    for known, others in ((first, second), (second, first)):
        law, rest = torch.cat(list(known)).sort().values, torch.cat(list(others))
        top = rest[: len(rest) // n * n].view(-1, n).amax(1)  # [G]
        below, upto = (torch.searchsorted(law, top, right=right) for right in (False, True))
        cdf, cdf_left = (
            (upto + 1) / (len(law) + 1),
            below / (len(law) + 1),
        )  # the response itself is counted to the law
        values = best_of_n_log_ratio(cdf, cdf_left, n), top, (cdf + cdf_left) / 2
        found.append(torch.stack([value.double().mean() for value in values]))
    return (found[0] + found[1]) / 2


def plane_figure(
    bank: PriorSample, best: Mapping[int, Best], places: Mapping[str, Place], title: str
) -> Figure:
    """Reward against KL to the prior: the posteriors, the best of n as it is and by the formula, and guides."""
    figure, axes = figures.new_axes()
    frontier = bank.frontier(torch.logspace(-3, 2, 80).tolist())
    axes.plot(
        *zip(*frontier, strict=True),
        color=figures.POSTERIOR,
        label="posteriors for every beta: the frontier",
    )
    bounds = [best_of_n_kl_bound(n) for n in best]
    axes.plot(
        [one.kl for one in best.values()],
        [one.reward for one in best.values()],
        color=figures.PRIOR,
        label="best of n, exact",
    )
    axes.plot(
        bounds,
        [one.reward for one in best.values()],
        "|",
        color=figures.PRIOR,
        label="its KL by log n - (n-1)/n",
    )
    for n, one in best.items():
        _dot(axes, one.place, figures.PRIOR, None)
        axes.annotate(
            f"{n}",
            (one.place.kl.value, one.place.reward.value),
            (3, -9),
            textcoords="offset points",
            fontsize=7,
        )
    for (name, place), color in zip(places.items(), figures.palette(len(places)), strict=True):
        _dot(axes, place, color, name)
    furthest = max([*bounds, *(place.kl.value for place in places.values())])
    axes.set(
        xlim=(-0.05 * furthest, 1.1 * furthest),
        xlabel="KL(q || p0), nats",
        ylabel="E[r]",
        title=title,
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _dot(axes: Axes, place: Place, color: Any, label: str | None) -> None:
    kl, reward = place
    axes.errorbar(
        [kl.value],
        [reward.value],
        [2 * _error(reward)],
        [2 * _error(kl)],
        color=color,
        fmt="o",
        markersize=4,
        label=label,
    )


if __name__ == "__main__":
    run_script(main, BestOfN)
