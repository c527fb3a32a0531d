"""RLHF where every stage has a truth: preferences of a known gold reward, and the posteriors of what is learned from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.rlhf import figures as rlhf_figures
from experiments.rlhf.reward_bank import Bank, Curve, sweep
from experiments.rlhf.stages import check_inference, finish, held_out, learn, tune
from experiments.shared import claims
from experiments.shared.claims import Finding
from experiments.shared.figures import save
from experiments.shared.run_folder import RunFolder
from experiments.shared.tables import cell, mean_and_error, text_table
from inference import random_state
from inference.reward_posterior.calibration import Calibration
from model import LanguageModel, vader_sentiment
from model.preferences import (
    AGGREGATIONS,
    Features,
    Preference,
    RewardPosterior,
    write_preferences,
)
from model.prior.named_priors import load_prior

if TYPE_CHECKING:
    from experiments.rlhf.__main__ import RLHF

CLAIM = (
    "gold reward peaks and then falls as the posterior of a learned reward moves away from the prior, while the proxy goes on "
    "rising; more preferences and pessimism about the reward put the peak off; the marginal likelihood does the opposite"
)
SOURCE = "Gao et al. 2022 (2210.10760); Coste et al. 2023 (2310.02743); the Gaussian integral E[exp(r/beta)]"
KLS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Where curves are compared, nats."""
FAR = 2.0
"""Where aggregations are compared, nats."""
FARTHEST = 6.0
"""Where figures end, nats; a posterior that is one response already stays in them as it is."""


@dataclass(frozen=True)
class Run:
    """One data set: how well its reward is recovered, and where the posteriors of that reward go.

    Attributes:
        world: `next word` or `T tokens`.
        num_preferences: in the data set.
        seed: of it.
        measured: by name: `correlation`, `accuracy`, `ece`, `ece by chance`; and for each aggregation A and each KL:
            `A gold KL`; `A peak kl`, `A gain`, what gold reward has gained there over the prior, and `A fall`, what of it is
            lost at the end of the curve, and `A proxy rise`, what the proxy has gained between the two.
    """

    world: str
    num_preferences: int
    seed: int
    measured: dict[str, float]


def simulated(
    args: RLHF, prior: LanguageModel, features: Features, folder: RunFolder
) -> list[Finding]:
    """Preferences of a known gold reward, in two worlds."""
    next_word = load_prior(
        args.prior,
        max_new_tokens=1,
        temperature=args.temperature,
        dtype="float32",
        device=args.device,
    )

    def gold(texts: list[str]) -> Tensor:
        return args.gold_scale * torch.tensor(vader_sentiment(texts), dtype=torch.float64)

    every = Bank.of(next_word, args.word_prompt, gold)
    worlds = {
        "next word": (every, every),
        f"{args.max_new_tokens} tokens": (
            Bank.of(prior, args.prompt, gold, max(2, args.draws // 2)),
            Bank.of(prior, args.prompt, gold, args.draws),
        ),
    }
    runs: list[Run] = []
    tables: list[str] = []
    pictures: list[Path] = []
    for world, (pool, bank) in worlds.items():
        reliability: dict[str, Calibration] = {}
        curves: dict[int, list[dict[str, Curve]]] = {}
        for count in args.num_preferences:
            for seed in range(args.seeds):
                run, curve, calibration, posterior, train = one_data_set(
                    args, world, pool, bank, features, count, seed
                )
                runs.append(run)
                curves.setdefault(count, []).append(curve)
                if seed == 0:
                    reliability[f"{count} preferences"] = calibration
        tables += world_tables(world, [run for run in runs if run.world == world], args, bank)
        name = world.replace(" ", "-")
        pictures.append(
            save(
                rlhf_figures.reliability_figure(reliability),
                folder.path / f"reliability-{name}.svg",
            )
        )
        panels = {
            f"{count} preferences": mean_curves(of_count) for count, of_count in curves.items()
        }
        figure = rlhf_figures.over_optimisation_figure(
            panels, bank.prior_gold, f"Posteriors of the learned reward, {world}"
        )
        pictures.append(save(figure, folder.path / f"gold-{name}.svg"))
    (folder.path / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    write_preferences(folder.path / "preferences.jsonl", train)
    posterior.save(folder.path / "reward")
    if args.simulations:
        tables.append(check_inference(args, posterior.features, train))
    tables.append(tune(args, prior, posterior, [args.prompt], folder, gold, bank))
    found = findings([run for run in runs if run.world == "next word"], args)
    finish(folder, claims.report(CLAIM, SOURCE, tables, found), pictures)
    return found


def one_data_set(
    args: RLHF, world: str, pool: Bank, bank: Bank, features: Features, count: int, seed: int
) -> tuple[Run, dict[str, Curve], Calibration, RewardPosterior, list[Preference]]:
    """Draw preferences, learn the reward, test it, and follow its posteriors away from the prior."""
    with random_state.isolated(args.seed + 1000 * seed + count):
        try:
            train = pool.preferences(count, args.flip)
            test = bank.preferences(1000, args.flip, without=train)
        except ValueError as error:
            raise SystemExit(f"--num-preferences {count}, {world}: {error}") from error
    model, posterior = learn(args, features, train, args.flip, args.seed + seed)
    found = held_out(model, posterior, test)
    rewards = posterior(bank.texts)  # [S, M]
    measured = {
        "correlation": bank.correlation(rewards.mean(0)),
        "accuracy": found.accuracy.value,
        "ece": found.ece,
        "ece by chance": found.ece_by_chance,
    }
    betas = torch.logspace(1.5, -3.0, args.betas, dtype=torch.float64) * args.prior_scale
    curves = {}
    for name, aggregate in AGGREGATIONS.items():
        try:
            curve = curves[name] = sweep(bank, rewards, aggregate, betas, args.min_effective)
        except ValueError as error:
            raise SystemExit(
                f"--draws {args.draws} with --min-effective {args.min_effective:g}: {error}"
            ) from error
        measured |= {f"{name} gold {kl:g}": curve.gold_at(kl) for kl in KLS}
        measured |= {
            f"{name} peak kl": curve.kl[curve.peak].item(),
            f"{name} gain": curve.gold[curve.peak].item() - bank.prior_gold,
            f"{name} fall": (curve.gold[curve.peak] - curve.gold[-1]).item(),
            f"{name} proxy rise": (curve.proxy[-1] - curve.proxy[curve.peak]).item(),
        }
    return Run(world, count, seed, measured), curves, found, posterior, train


def mean_curves(curves: Sequence[Mapping[str, Curve]]) -> dict[str, rlhf_figures.Line]:
    """Gold reward by KL of each aggregation, over data sets: as far as all are trusted, or to `FARTHEST` where all is known."""
    lines: dict[str, rlhf_figures.Line] = {}
    for name in curves[0]:
        start = max(curve[name].kl[0].item() for curve in curves)
        end = (
            FARTHEST
            if curves[0][name].has_limit
            else min(curve[name].kl[-1].item() for curve in curves)
        )
        grid = torch.linspace(start, end, 60).tolist()
        rows = [[curve[name].gold_at(kl) for kl in grid] for curve in curves]
        stats = [
            mean_and_error([{"gold": row[i]} for row in rows], "gold") for i in range(len(grid))
        ]
        lines[name] = (
            grid,
            [mean for mean, _ in stats],
            [0.0 if math.isnan(error) else error for _, error in stats],
        )
    return lines


def world_tables(world: str, runs: Sequence[Run], args: RLHF, bank: Bank) -> list[str]:
    """Means over data sets, with standard errors: the reward, and gold reward by KL."""
    by_count = {
        count: [run.measured for run in runs if run.num_preferences == count]
        for count in args.num_preferences
    }
    names = ("correlation", "accuracy", "ece", "ece by chance")
    recovered = {
        f"{count} preferences": [cell(*mean_and_error(rows, name)) for name in names]
        for count, rows in by_count.items()
    }
    columns = [f"gold at {kl:g}" for kl in KLS] + [
        "KL at its peak",
        "gain there",
        "lost at the end",
        "proxy's rise since",
    ]
    gold = {}
    for count, rows in by_count.items():
        for name in AGGREGATIONS:
            after = ("peak kl", "gain", "fall", "proxy rise")
            keys = [*(f"{name} gold {kl:g}" for kl in KLS), *(f"{name} {what}" for what in after)]
            gold[f"{count}, {name}"] = [cell(*mean_and_error(rows, key)) for key in keys]
    trusted = (
        "all KL exact"
        if bank.weighed.exact
        else f"{len(bank.texts)} draws, trusted to an effective {args.min_effective:g}"
    )
    return [
        f"The reward, {world}: 1,000 held-out preferences\n" + text_table([*names], recovered),
        f"Gold reward at KL(p* || p0), {world} ({trusted}; prior {bank.prior_gold:.3f}), by preferences and aggregation\n"
        + text_table(columns, gold),
    ]


def findings(runs: Sequence[Run], args: RLHF) -> list[Finding]:
    """What the claim says, put to the runs of the world where every number is exact. Two standard errors over seeds decide."""
    fewest, most = min(args.num_preferences), max(args.num_preferences)

    def over_seeds(name: str, counts: Sequence[int]) -> list[float]:
        by_seed = [
            [r.measured[name] for r in runs if r.seed == seed and r.num_preferences in counts]
            for seed in range(args.seeds)
        ]
        return [sum(values) / len(values) for values in by_seed]

    def more(name: str, than: str) -> bool:
        of_both = (
            over_seeds(f"{which} gold {FAR:g}", args.num_preferences) for which in (name, than)
        )
        return certainly_positive([a - b for a, b in zip(*of_both, strict=True)])

    def ends(name: str) -> tuple[list[float], list[float]]:
        return over_seeds(name, [fewest]), over_seeds(name, [most])

    fall = [
        fall - 0.1 * gain
        for fall, gain in zip(ends("mean fall")[0], ends("mean gain")[0], strict=True)
    ]
    later = [b - a for a, b in zip(*ends("mean peak kl"), strict=True)]
    return [
        Finding(
            f"with {fewest} preferences, gold reward falls by a tenth of its gain or more",
            certainly_positive(fall),
        ),
        Finding(f"with {most} it peaks at a larger KL", certainly_positive(later)),
        Finding(
            f"at {FAR:g} nats the lower bound has more gold reward than the mean",
            more("lower-bound", "mean"),
        ),
        Finding("the minimum has more", more("minimum", "mean")),
        Finding("the marginal likelihood has less", more("mean", "marginal-likelihood")),
    ]


def certainly_positive(values: Sequence[float]) -> bool:
    """Whether the mean is over two standard errors above 0; not so for fewer than two values."""
    mean, error = mean_and_error([{"value": value} for value in values], "value")
    return mean - 2 * error > 0
