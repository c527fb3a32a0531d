"""The studies of `experiments.rlhf`: preferences of a file, or simulated from a gold reward."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.rlhf import learning, report
from experiments.rlhf.learning import DataSet, Study, TextWorld
from experiments.rlhf.options import RLHF
from experiments.rlhf.text_sample import Gold, TextSample
from experiments.shared.figures import save
from experiments.shared.refusals import blamed
from experiments.shared.tables import text_table
from model import LanguageModel, vader_sentiment
from model.preferences import (
    Features,
    Judged,
    Ranking,
    read_judged,
    split_preferences,
    write_preferences,
)

NEXT_WORD = "next word"
"""Name of the world with responses of one token, where every number is exact."""
Split = tuple[Sequence[Judged], Sequence[Judged]]


def read_split(
    source: str,
    test_share: float,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompt_column: str = "prompt",
) -> Split:
    """Read preferences, or rankings, to learn from and to test on; exit if a part is all ties.

    `tokenizer` writes preferences between chats as texts.
    """
    with blamed("--preferences"):
        every = read_judged(source, tokenizer, prompt_column=prompt_column)
        return split_preferences(every, test_share, seed)


def study_data(args: RLHF, features: Features, split: Split, folder: Path) -> Study:
    """Learn a reward, save it and test it on the held-out preferences."""
    train, test = split
    model, posterior = learning.learn(args, features, train, args.seed)
    posterior.save(folder / "reward")
    calibration = learning.held_out(model, posterior, test)
    figure = report.reliability_figure({"held out": calibration})
    picture = save(figure, folder / "reliability.svg")
    kind = "rankings" if isinstance(train[0], Ranking) else "preferences"
    summary = (
        f"The reward, from {len(train)} {kind}, on {len(test)} held out: accuracy "
        f"{calibration.accuracy}, log loss {calibration.log_loss} nats, ECE {calibration.ece:.3f} "
        f"(by chance {calibration.ece_by_chance:.3f})"
    )
    if model.tie_strength:
        summary += f", ties of strength {model.tie_strength:.2f}"
    bins = zip(calibration.confidence, calibration.correct, calibration.count, strict=True)
    rows = {
        f"confidence {confidence:.2f}": [f"{correct:.2f}", f"{count:.0f}"]
        for confidence, correct, count in bins
    }
    table = text_table(["predicted right", "comparisons"], rows)
    return Study(posterior, [summary, table], [picture])


def two_worlds(args: RLHF, prior: LanguageModel, gold: Gold) -> list[TextWorld]:
    """The world of single tokens, all listed, and the world of longer responses, drawn."""
    parts = prior.network, prior.tokenizer
    next_word = LanguageModel(*parts, max_new_tokens=1, temperature=prior.temperature)
    every = TextSample.of(next_word, args.word_prompt, gold)
    pool = TextSample.of(prior, args.prompt, gold, max(2, args.draws // 2), "preferences")
    sample = TextSample.of(prior, args.prompt, gold, args.draws)
    name = f"{prior.space.max_new_tokens} tokens"
    return [TextWorld(NEXT_WORD, every, every), TextWorld(name, pool, sample)]


def simulate(args: RLHF, prior: LanguageModel, features: Features, folder: Path) -> Study:
    """Learn a reward from every data set of each size in both worlds, and report on the rewards.

    The folder receives all measurements, the figures, the last data set and its reward.
    """

    def gold(texts: list[str]) -> Tensor:
        """Gold reward in log-odds: a scale times VADER's sentiment."""
        return args.gold_scale * torch.tensor(vader_sentiment(texts), dtype=torch.float64)

    betas = torch.logspace(1.5, -3.0, args.betas, dtype=torch.float64) * args.prior_scale
    worlds = two_worlds(args, prior, gold)
    tables, pictures, runs = [], [], []
    for world in worlds:
        cases = product(args.num_preferences, range(args.seeds))
        data_sets = [learning.data_set(args, features, world, *case, betas) for case in cases]
        runs += (own_runs := [one.run for one in data_sets])
        extent = f"{len(world.sample.texts)} draws, trusted to an effective {args.min_effective:g}"
        if world.sample.responses.exact:
            extent = "all KL exact"
        tables += report.world_tables(own_runs, f"{extent}; prior {world.sample.prior_gold:.3f}")
        pictures += world_figures(world, data_sets, folder)
    last = data_sets[-1]
    (folder / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    write_preferences(folder / "preferences.jsonl", last.train)
    last.posterior.save(folder / "reward")
    if args.simulations:
        tables.append(learning.check_inference(args, last.posterior.features, last.train))
    exact = [run for run in runs if run.world == NEXT_WORD]
    return Study(last.posterior, tables, pictures, report.findings(exact), gold, worlds[-1].sample)


def world_figures(world: TextWorld, data_sets: Sequence[DataSet], folder: Path) -> list[Path]:
    """Write the reliability of the first reward of each size, and gold reward against KL."""
    first, panels = {}, {}
    for size in dict.fromkeys(one.run.num_preferences for one in data_sets):
        of_size = [one for one in data_sets if one.run.num_preferences == size]
        first[f"{size} preferences"] = of_size[0].calibration
        panels[f"{size} preferences"] = report.mean_curves([one.curves for one in of_size])
    gold = report.over_optimisation_figure(panels, world.sample.prior_gold, world.name)
    name = world.name.replace(" ", "-")
    reliability = report.reliability_figure(first)
    pictures = {f"reliability-{name}.svg": reliability, f"gold-{name}.svg": gold}
    return [save(picture, folder / file) for file, picture in pictures.items()]
