"""Preferences simulated from a known gold reward: every stage of RLHF beside its truth."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from experiments.rlhf import figures as rlhf_figures
from experiments.rlhf.data_set import DataSet, TextWorld, data_set
from experiments.rlhf.learning import RewardLearner, Study
from experiments.rlhf.report import findings, mean_curves, world_tables
from experiments.rlhf.text_sample import Gold, TextSample
from experiments.shared.figures import save
from model import LanguageModel, vader_sentiment
from model.preferences import write_preferences

NEXT_WORD = "next word"
"""Name of the world with responses of one token, where every number is exact."""


def gold_reward(scale: float) -> Gold:
    """Gold reward in log-odds: a scale times VADER's sentiment."""
    return lambda texts: scale * torch.tensor(vader_sentiment(texts), dtype=torch.float64)


def two_worlds(
    prior: LanguageModel, prompt: str, word_prompt: str, num_draws: int, gold: Gold
) -> list[TextWorld]:
    """The world of single tokens, all listed, and the world of longer responses, drawn."""
    next_word = LanguageModel(
        prior.network, prior.tokenizer, max_new_tokens=1, temperature=prior.temperature
    )
    every = TextSample.of(next_word, word_prompt, gold)
    pool = TextSample.of(prior, prompt, gold, max(2, num_draws // 2))
    sample = TextSample.of(prior, prompt, gold, num_draws)
    name = f"{prior.space.max_new_tokens} tokens"
    return [TextWorld(NEXT_WORD, every, every), TextWorld(name, pool, sample)]


def simulate(
    worlds: Sequence[TextWorld],
    gold: Gold,
    learner: RewardLearner,
    folder: Path,
    *,
    sizes: Sequence[int],
    num_seeds: int,
    betas: Tensor,
    min_effective: float,
    num_simulations: int,
    seed: int,
) -> Study:
    """Learn rewards from `num_seeds` data sets of each size in every world, and report on them.

    The folder receives all measurements, the figures, the last data set and its reward.
    """
    tables, pictures, runs = [], [], []
    for world in worlds:
        data_sets = [
            data_set(world, learner, size, number, betas, min_effective, seed)
            for size in sizes
            for number in range(num_seeds)
        ]
        runs += (own_runs := [one.run for one in data_sets])
        extent = f"{len(world.sample.texts)} draws, trusted to an effective {min_effective:g}"
        if world.sample.responses.exact:
            extent = "all KL exact"
        tables += world_tables(own_runs, f"{extent}; prior {world.sample.prior_gold:.3f}")
        pictures += world_figures(world, data_sets, folder)
    last = data_sets[-1]
    (folder / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    write_preferences(folder / "preferences.jsonl", last.train)
    last.posterior.save(folder / "reward")
    if num_simulations:
        features = last.posterior.features
        tables.append(learner.check_inference(features, last.train, num_simulations, seed))
    exact = [run for run in runs if run.world == NEXT_WORD]
    return Study(last.posterior, tables, pictures, findings(exact), gold, worlds[-1].sample)


def world_figures(world: TextWorld, data_sets: Sequence[DataSet], folder: Path) -> list[Path]:
    """Write the reliability of the first reward of each size, and gold reward against KL."""
    by_size: dict[str, list[DataSet]] = {}
    for one in data_sets:
        by_size.setdefault(f"{one.run.num_preferences} preferences", []).append(one)
    first = {size: of_size[0].calibration for size, of_size in by_size.items()}
    panels = {
        size: mean_curves([one.curves for one in of_size]) for size, of_size in by_size.items()
    }
    title = f"Posteriors of the learned reward, {world.name}"
    gold = rlhf_figures.over_optimisation_figure(panels, world.sample.prior_gold, title)
    name = world.name.replace(" ", "-")
    return [
        save(rlhf_figures.reliability_figure(first), folder / f"reliability-{name}.svg"),
        save(gold, folder / f"gold-{name}.svg"),
    ]
