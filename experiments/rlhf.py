"""Preferences -> reward -> posterior -> guide: RLHF as two inferences, and what happens when the first one is uncertain.

Question: a reward is learned from preferences, and a language model is steered by it. How long does that do any good?
Claim: gold reward against KL rises, peaks and falls, while the proxy goes on rising; more preferences put the peak off (Gao et
al. 2022, arXiv 2210.10760). Pessimism about an uncertain reward puts it off too (Coste et al. 2023, arXiv 2310.02743), while
the marginal likelihood, which is what Bayes says, is optimism: a bonus var/(2 beta) for what is not known.
Printed: how well the reward is recovered (correlation, held-out accuracy, calibration), simulation-based calibration of the
inference, gold reward at several KL for every aggregation, with standard errors over seeds; a guide tuned on the proxy; the
verdict.

Every stage has a truth: the preferences are simulated from a gold reward, VADER's sentiment scaled to log-odds. The posteriors
of the proxies need no training, and that their own reward rises as beta falls is a theorem for a fixed proxy. There are two
worlds. With responses of 12 tokens they are prior draws, weighted, and can be trusted to about 2 nats. Up to there gold reward
hardly fell, as theory has it for a proxy whose errors have light tails on the prior's draws (Kwa et al. 2024, arXiv
2407.14503). With responses of one token all 3,072 of them are listed and every number is exact at any KL: there the proxy gets
to choose words that the preferences never showed, and there the claims are put to the test. The prompt of that world wants an
adjective next ("The film was very"): after "The film was" nearly all words are neutral, and preferences are coin flips.

    python -m experiments.rlhf
    python -m experiments.rlhf --num-preferences 100 1000 --inference ensemble --aggregation minimum
    python -m experiments.rlhf --preferences pairs.jsonl --prior smollm2 --guide lora

With `--preferences` the data are yours: {"prompt": ..., "chosen": ..., "rejected": ...} a line. Gold is unknown then; what is
held out says how good the reward is, RUN/reward keeps it, and a guide is tuned to it on the prompts of the file.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import torch
import tyro
from torch import Tensor

from experiments import claims, rlhf_figures
from experiments.claims import Finding
from experiments.figures import save
from experiments.registry import GuideName, described, load_prior, set_threads
from experiments.reward_bank import Bank, Curve, sweep
from experiments.run_folder import RunFolder
from experiments.zoo import cell, mean_and_error, text_table
from guides import GUIDES, Guide
from inference import Estimate, FusedOptimizer, cosine, diagnose, fit, random_state, response_distribution
from inference.calibration import Calibration, calibrate, predict
from inference.reward_posterior import REWARD_INFERENCE
from inference.simulation_based_calibration import simulation_based_calibration
from model import AlignmentModel, LanguageModel, TextEvidence, vader_sentiment
from model.preferences import (
    AGGREGATIONS,
    BradleyTerry,
    Comparisons,
    EncoderFeatures,
    Features,
    LinearHead,
    Preference,
    PriorFeatures,
    RewardPosterior,
    Standardised,
    UncertainReward,
    read_preferences,
    split_preferences,
    write_preferences,
)

if TYPE_CHECKING:
    InferenceName: TypeAlias = str
    AggregationName: TypeAlias = str
else:
    InferenceName, AggregationName = Literal[tuple(REWARD_INFERENCE)], Literal[tuple(AGGREGATIONS)]

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
class RLHF:
    """Learn a reward from preferences, with its uncertainty, and steer a language model by it."""

    preferences: Path | None = None
    """A file of preferences in JSON lines; default: they are simulated from a known reward."""
    prior: str = "film-reviews"
    """p0: `film-reviews` (embedded), `smollm2`, a folder in Hugging Face format, or a name on the hub."""
    encoder: str | None = None
    """Features of the reward: any encoder in Hugging Face format; default the prior's own hidden states."""
    components: int = 128
    """Principal components of the features that the reward goes by."""
    prior_scale: float = 2.0
    """Standard deviation of a typical response's reward before there are preferences, in log-odds. Gold has 1.1 to 1.5."""
    inference: Annotated[InferenceName, tyro.conf.arg(help="How the reward is inferred: " + ", ".join(REWARD_INFERENCE))] = (
        "laplace"
    )
    reward_samples: int = 64
    """S, draws of the reward."""
    aggregation: AggregationName = "lower-bound"
    """Of these draws into the evidence that the guide is tuned on."""
    beta: float = 0.4
    """Reward (log-odds) per nat, for the guide."""
    prompt: str = "The film was"
    """What the responses of T tokens continue, where preferences are simulated."""
    word_prompt: str = "The film was very"
    """What the responses of one token continue."""
    max_new_tokens: int = 12
    """T: the most tokens a response has."""
    temperature: float = 0.7
    """Divides the logits of prior and guide alike."""
    num_preferences: tuple[int, ...] = (30, 100, 300, 1000)
    """Simulated ones; everything is done for each."""
    gold_scale: float = 4.0
    """Log-odds that a sentiment of 1 is preferred to one of 0."""
    flip: float = 0.0
    """Probability that a simulated annotator slips; the inference knows it."""
    seeds: int = 6
    """Data sets for each number of preferences, behind the standard errors."""
    draws: int = 4096
    """Prior draws of T tokens behind the posteriors, and half as many for preferences."""
    min_effective: float = 100.0
    """Effective sample size below which a posterior from these draws is not trusted."""
    betas: int = 60
    """Values of beta in a sweep."""
    simulations: int = 50
    """Of simulation-based calibration; 0 for none."""
    held_out: float = 0.2
    """Share of the preferences of a file that the reward is tested on."""
    max_prompts: int = 16
    """Prompts of a file that the guide is tuned on."""
    guide: Annotated[GuideName, tyro.conf.arg(help=described("q, what is trained.", GUIDES))] = "twisted"
    steps: int = 40
    """Steps of SVI."""
    particles: int = 32
    """Responses a step for each prompt."""
    learning_rate: float | None = None
    """Peak learning rate; default what suits the guide on the embedded prior."""
    samples: int = 512
    """Responses of the guide, for each prompt, that the final measurement draws."""
    seed: int = 0
    """Of every random number."""
    device: str | None = None
    """`cpu` or `cuda`; default a GPU where there is one."""
    threads: int | None = None
    """CPU threads; default torch's choice."""
    out: Path = Path("runs")
    """The run folder is made in here."""


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


def main(args: RLHF) -> RunFolder:
    set_threads(args.threads)
    if not GUIDES[args.guide].trains:
        raise SystemExit(f"--guide {args.guide} has nothing to train")
    folder = RunFolder.new(args.out, "rlhf")
    folder.write_arguments(args)
    prior = load_prior(
        args.prior, max_new_tokens=args.max_new_tokens, temperature=args.temperature, dtype="float32", device=args.device
    )
    features = (
        PriorFeatures(prior) if args.encoder is None else EncoderFeatures.from_pretrained(args.encoder, device=args.device)
    )
    print(f"run folder {folder.path}")
    with random_state.isolated(args.seed):
        if args.preferences is None:
            simulated(args, prior, features, folder)
        else:
            from_file(args, prior, features, folder)
    return folder


def simulated(args: RLHF, prior: LanguageModel, features: Features, folder: RunFolder) -> None:
    """Preferences of a known gold reward, in two worlds."""
    next_word = load_prior(args.prior, max_new_tokens=1, temperature=args.temperature, dtype="float32", device=args.device)

    def gold(texts: list[str]) -> Tensor:
        return args.gold_scale * torch.tensor(vader_sentiment(texts), dtype=torch.float64)

    every = Bank.of_all(next_word, args.word_prompt, gold)
    worlds = {
        "next word": (every, every),
        f"{args.max_new_tokens} tokens": (
            Bank.of_draws(prior, args.prompt, max(2, args.draws // 2), gold),
            Bank.of_draws(prior, args.prompt, args.draws, gold),
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
                run, curve, found, posterior, train = one_data_set(args, world, pool, bank, features, count, seed)
                runs.append(run)
                curves.setdefault(count, []).append(curve)
                if seed == 0:
                    reliability[f"{count} preferences"] = found
        tables += world_tables(world, [run for run in runs if run.world == world], args, bank)
        name = world.replace(" ", "-")
        pictures.append(save(rlhf_figures.reliability_figure(reliability), folder.path / f"reliability-{name}.svg"))
        panels = {f"{count} preferences": mean_curves(found) for count, found in curves.items()}
        prior_gold = (bank.log_prior.exp() @ bank.gold).item()
        figure = rlhf_figures.over_optimisation_figure(panels, prior_gold, f"Posteriors of the learned reward, {world}")
        pictures.append(save(figure, folder.path / f"gold-{name}.svg"))
    (folder.path / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    write_preferences(folder.path / "preferences.jsonl", train)
    posterior.save(folder.path / "reward")
    if args.simulations:
        tables.append(check_inference(args, posterior.features, train))
    tables.append(tune(args, prior, posterior, [args.prompt], folder, gold, bank))
    finish(
        folder,
        claims.report(CLAIM, SOURCE, tables, findings([run for run in runs if run.world == "next word"], args)),
        pictures,
    )


def learn(
    args: RLHF, features: Features, train: Sequence[Preference], flip: float, seed: int
) -> tuple[BradleyTerry, RewardPosterior]:
    """The reward's posterior from preferences: features, program, inference. Where there are ties, their strength is 1."""
    texts = [text for preference in train for text in preference.texts]
    standardised = Standardised.fit(features, texts, num_components=args.components)
    ties = 1.0 if any(preference.tie for preference in train) else 0.0
    model = BradleyTerry(LinearHead(standardised.num_features), args.prior_scale, flip=flip, tie_strength=ties)
    infer = REWARD_INFERENCE[args.inference]
    samples = infer(model, Comparisons.of(train, standardised), num_samples=args.reward_samples, seed=seed)
    return model, RewardPosterior(model.head, standardised, samples)


def held_out(model: BradleyTerry, posterior: RewardPosterior, preferences: Sequence[Preference]) -> Calibration:
    """How the reward does on preferences that it has not seen."""
    comparisons = Comparisons.of(preferences, posterior.features)
    assert comparisons.outcome is not None
    return calibrate(predict(model, comparisons, posterior.samples, slips=True), comparisons.outcome)


def one_data_set(
    args: RLHF, world: str, pool: Bank, bank: Bank, features: Features, count: int, seed: int
) -> tuple[Run, dict[str, Curve], Calibration, RewardPosterior, list[Preference]]:
    """Draw preferences, learn the reward, test it, and follow its posteriors away from the prior."""
    with random_state.isolated(args.seed + 1000 * seed + count):
        train, test = pool.preferences(count, args.flip), bank.preferences(1000, args.flip)
    model, posterior = learn(args, features, train, args.flip, args.seed + seed)
    found = held_out(model, posterior, test)
    rewards = posterior(bank.texts)  # [S, M]
    measured = {
        "correlation": bank.correlation(rewards.mean(0)),
        "accuracy": found.accuracy.value,
        "ece": found.ece,
        "ece by chance": found.ece_by_chance,
    }
    prior_gold = (bank.log_prior.exp() @ bank.gold).item()
    betas = torch.logspace(1.5, -3.0, args.betas, dtype=torch.float64) * args.prior_scale
    curves = {}
    for name, aggregate in AGGREGATIONS.items():
        curve = curves[name] = sweep(bank, rewards, aggregate, betas, args.min_effective)
        measured |= {f"{name} gold {kl:g}": curve.gold_at(kl) for kl in KLS}
        measured |= {
            f"{name} peak kl": curve.kl[curve.peak].item(),
            f"{name} gain": curve.gold[curve.peak].item() - prior_gold,
            f"{name} fall": (curve.gold[curve.peak] - curve.gold[-1]).item(),
            f"{name} proxy rise": (curve.proxy[-1] - curve.proxy[curve.peak]).item(),
        }
    return Run(world, count, seed, measured), curves, found, posterior, train


def mean_curves(curves: Sequence[Mapping[str, Curve]]) -> dict[str, rlhf_figures.Line]:
    """Gold reward by KL of each aggregation, over data sets: as far as all are trusted, or to `FARTHEST` where all is known."""
    lines: dict[str, rlhf_figures.Line] = {}
    for name in curves[0]:
        start = max(curve[name].kl[0].item() for curve in curves)
        end = FARTHEST if curves[0][name].has_limit else min(curve[name].kl[-1].item() for curve in curves)
        grid = torch.linspace(start, end, 60).tolist()
        rows = [[curve[name].gold_at(kl) for kl in grid] for curve in curves]
        stats = [mean_and_error([{"gold": row[i]} for row in rows], "gold") for i in range(len(grid))]
        lines[name] = (grid, [mean for mean, _ in stats], [0.0 if math.isnan(error) else error for _, error in stats])
    return lines


def world_tables(world: str, runs: Sequence[Run], args: RLHF, bank: Bank) -> list[str]:
    """Means over data sets, with standard errors: the reward, and gold reward by KL."""
    by_count = {count: [run.measured for run in runs if run.num_preferences == count] for count in args.num_preferences}
    names = ("correlation", "accuracy", "ece", "ece by chance")
    recovered = {
        f"{count} preferences": [cell(*mean_and_error(rows, name)) for name in names] for count, rows in by_count.items()
    }
    columns = [f"gold at {kl:g}" for kl in KLS] + ["KL at its peak", "gain there", "lost at the end", "proxy's rise since"]
    gold = {}
    for count, rows in by_count.items():
        for name in AGGREGATIONS:
            after = ("peak kl", "gain", "fall", "proxy rise")
            keys = [*(f"{name} gold {kl:g}" for kl in KLS), *(f"{name} {what}" for what in after)]
            gold[f"{count}, {name}"] = [cell(*mean_and_error(rows, key)) for key in keys]
    start = f"{(bank.log_prior.exp() @ bank.gold).item():.3f}"
    trusted = "all KL exact" if bank.exact else f"{len(bank.texts)} draws, trusted to an effective {args.min_effective:g}"
    return [
        f"The reward, {world}: 1,000 held-out preferences\n" + text_table([*names], recovered),
        f"Gold reward at KL(p* || p0), {world} ({trusted}; prior {start}), by preferences and aggregation\n"
        + text_table(columns, gold),
    ]


def check_inference(args: RLHF, features: Standardised, train: Sequence[Preference]) -> str:
    """Simulation-based calibration of the chosen inference, on four components and fifty comparisons."""
    if args.inference == "map":
        return "Simulation-based calibration: none, a point has no ranks"
    comparisons = Comparisons.of(train[:50], features)
    few = min(4, features.num_features)
    comparisons = Comparisons(comparisons.first[:, :few], comparisons.second[:, :few])
    model = BradleyTerry(LinearHead(few), args.prior_scale, flip=args.flip)
    ranks = simulation_based_calibration(
        model,
        comparisons,
        REWARD_INFERENCE[args.inference].infer,
        num_simulations=args.simulations,
        num_samples=19,
        seed=args.seed,
    )
    return (
        f"Simulation-based calibration of {args.inference}, {args.simulations} simulations of {len(comparisons.first)} "
        f"comparisons, {few} weights: p = {ranks.p_value(5):.2g} that ranks are uniform"
    )


def findings(runs: Sequence[Run], args: RLHF) -> list[Finding]:
    """What the claim says, put to the runs of the world where every number is exact. Two standard errors over seeds decide."""
    fewest, most = min(args.num_preferences), max(args.num_preferences)

    def over_seeds(name: str, counts: Sequence[int]) -> list[float]:
        by_seed = [
            [r.measured[name] for r in runs if r.seed == seed and r.num_preferences in counts] for seed in range(args.seeds)
        ]
        return [sum(values) / len(values) for values in by_seed]

    def more(name: str, than: str) -> bool:
        of_both = (over_seeds(f"{which} gold {FAR:g}", args.num_preferences) for which in (name, than))
        return certainly_positive([a - b for a, b in zip(*of_both, strict=True)])

    def ends(name: str) -> tuple[list[float], list[float]]:
        return over_seeds(name, [fewest]), over_seeds(name, [most])

    fall = [fall - 0.1 * gain for fall, gain in zip(ends("mean fall")[0], ends("mean gain")[0], strict=True)]
    later = [b - a for a, b in zip(*ends("mean peak kl"), strict=True)]
    return [
        Finding(f"with {fewest} preferences, gold reward falls by a tenth of its gain or more", certainly_positive(fall)),
        Finding(f"with {most} it peaks at a larger KL", certainly_positive(later)),
        Finding(f"at {FAR:g} nats the lower bound has more gold reward than the mean", more("lower-bound", "mean")),
        Finding("the minimum has more", more("minimum", "mean")),
        Finding("the marginal likelihood has less", more("mean", "marginal-likelihood")),
    ]


def certainly_positive(values: Sequence[float]) -> bool:
    """Whether the mean is over two standard errors above 0; not so for fewer than two values."""
    mean, error = mean_and_error([{"value": value} for value in values], "value")
    return mean - 2 * error > 0


def tune(
    args: RLHF,
    prior: LanguageModel,
    posterior: RewardPosterior,
    texts: Sequence[str],
    folder: RunFolder,
    gold: Callable[[list[str]], Tensor] | None = None,
    bank: Bank | None = None,
) -> str:
    """Tune a guide on the proxy, and measure it: a table."""
    proxy = UncertainReward(posterior, args.aggregation, args.beta)
    model, prompts = AlignmentModel(prior, TextEvidence(proxy, prior), args.beta), prior.encode(list(texts))
    guide: Guide = GUIDES[args.guide](prior, prompts)
    rate = GUIDES[args.guide].learning_rate if args.learning_rate is None else args.learning_rate
    fit(
        model,
        guide,
        prompts,
        num_steps=args.steps,
        optimizer=FusedOptimizer(options={"lr": rate}, clip_norm=1.0, schedule=cosine(args.steps, warmup=args.steps // 20)),
        prompts_per_step=4,
        seed=args.seed,
        on_step=folder.append_metrics,
        progress=False,
    )
    guide.save_pretrained(folder.guide)
    columns = ["proxy reward", "KL to the prior", *(["gold reward"] if gold else [])]
    rows = {}
    for name, program in {"prior": None, "guide": guide}.items():
        distribution = prior(prompts) if program is None else response_distribution(program, prompts)
        response = distribution.sample(torch.Size([args.samples]))
        flat = [text for row in prior.decode(response, prompts) for text in row]
        shape = (args.samples, len(prompts))
        scores = {"proxy": torch.tensor(proxy(flat), dtype=torch.float64).view(shape)}
        if gold is not None:
            scores["gold"] = gold(flat).view(shape)
        kl = "0"
        if program is not None:
            found = diagnose(model, program, prompts, num_samples=args.samples, num_prior_draws=args.samples)
            kl = str(found.kl_guide_prior)
        proxy_cell, *gold_cell = (str(Estimate.of_mean(score)) for score in scores.values())
        rows[name] = [proxy_cell, kl, *gold_cell]
    if bank is not None:
        curve = sweep(bank, posterior(bank.texts), AGGREGATIONS[args.aggregation], torch.tensor([args.beta]), min_effective=0)
        size = curve.effective_sample_size.item()
        rows[f"posterior, from draws worth {size:.0f}"] = [
            f"{curve.proxy.item():.3f}",
            f"{curve.kl.item():.3f}",
            f"{curve.gold.item():.3f}",
        ]
    title = f"A guide, {args.guide}, {args.steps} steps on the {args.aggregation} of the last reward at beta {args.beta:g}"
    return f"{title}\n" + text_table(columns, rows)


def from_file(args: RLHF, prior: LanguageModel, features: Features, folder: RunFolder) -> None:
    """Preferences as they are: gold is unknown."""
    assert args.preferences is not None
    try:
        train, test = split_preferences(read_preferences(args.preferences), args.held_out, args.seed)
        texts = list(dict.fromkeys(preference.prompt for preference in train))[: args.max_prompts]
        prior.encode(texts)  # what does not fit is refused before anything is spent
    except ValueError as error:
        raise SystemExit(f"--preferences: {error}") from error
    model, posterior = learn(args, features, train, args.flip, args.seed)
    posterior.save(folder.path / "reward")
    found = held_out(model, posterior, test)
    picture = save(rlhf_figures.reliability_figure({"held out": found}), folder.path / "reliability.svg")
    bins = {
        f"confidence {confidence:.2f}": [f"{correct:.2f}", f"{count:.0f}"]
        for confidence, correct, count in zip(found.confidence, found.correct, found.count, strict=True)
    }
    tables = [
        f"The reward, from {len(train)} preferences, on {len(test)} held out: accuracy {found.accuracy}, log loss "
        f"{found.log_loss} nats, ECE {found.ece:.3f} (by chance {found.ece_by_chance:.3f})",
        text_table(["predicted right", "comparisons"], bins),
        tune(args, prior, posterior, texts, folder),
    ]
    finish(folder, "\n\n".join(tables), [picture])


def finish(folder: RunFolder, text: str, pictures: Sequence[Path]) -> None:
    """Print what was found, and leave it as text and as a page."""
    (folder.path / "report.txt").write_text(text + "\n", encoding="utf-8")
    drawn = "".join(
        path.read_text(encoding="utf-8").partition("<svg")[2].join(["<figure><svg", "</figure>"]) for path in pictures
    )
    page = f"<!doctype html><meta charset=utf-8><title>rlhf</title><pre>{html.escape(text)}</pre>{drawn}\n"
    folder.report.write_text(page, encoding="utf-8")
    print(f"{text}\n\nOpen {folder.report}; the reward is in {folder.path / 'reward'}, the guide in {folder.guide}.")


if __name__ == "__main__":
    main(tyro.cli(RLHF))
