"""The stages of RLHF as `experiments.rlhf` runs them: a reward from preferences, its test, a guide tuned on it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.rlhf.reward_bank import Bank, sweep
from experiments.shared.guide_options import save_guide
from experiments.shared.run_folder import RunFolder
from experiments.shared.tables import text_table
from guides import GUIDES, Guide
from inference import (
    Estimate,
    FusedOptimizer,
    LeaveOneOut_ELBO,
    cosine,
    diagnose,
    fit,
    response_distribution,
)
from inference.diagnostics.simulation_based_calibration import simulation_based_calibration
from inference.reward_posterior import REWARD_INFERENCE, NotMaximisedError, tie_strength
from inference.reward_posterior.calibration import Calibration, calibrate, predict
from model import LanguageModel
from model.preferences import (
    AGGREGATIONS,
    HEADS,
    BradleyTerry,
    Comparisons,
    Features,
    LinearHead,
    Preference,
    RewardPosterior,
    Standardised,
    uncertain_model,
)

if TYPE_CHECKING:
    from experiments.rlhf.__main__ import RLHF


def learn(
    args: RLHF, features: Features, train: Sequence[Preference], flip: float, seed: int
) -> tuple[BradleyTerry, RewardPosterior]:
    """The reward's posterior from preferences: features, program, inference."""
    texts = [text for preference in train for text in preference.texts]
    standardised = Standardised.fit(features, texts, num_components=args.components)
    comparisons = Comparisons.of(train, standardised)
    try:
        ties = (
            tie_strength(comparisons, args.prior_scale, flip)
            if args.tie_strength is None
            else args.tie_strength
        )
        head = HEADS[args.head](standardised.num_features)
        model = BradleyTerry(head, args.prior_scale, flip=flip, tie_strength=ties)
        samples = REWARD_INFERENCE[args.inference](
            model, comparisons, num_samples=args.reward_samples, seed=seed
        )
    except NotMaximisedError as error:
        raise SystemExit(
            f"--inference {args.inference} with --head {args.head}: {error}"
        ) from error
    return model, RewardPosterior(model.head, standardised, samples)


def held_out(
    model: BradleyTerry, posterior: RewardPosterior, preferences: Sequence[Preference]
) -> Calibration:
    """How the reward does on preferences that it has not seen."""
    comparisons = Comparisons.of(preferences, posterior.features)
    assert comparisons.outcome is not None
    return calibrate(
        predict(model, comparisons, posterior.samples, slips=True), comparisons.outcome
    )


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
        f"comparisons, {few} weights: p = {ranks.p_value(5):.2g} of ranks less uniform, were they"
    )


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
    model = uncertain_model(prior, posterior, args.aggregation, args.beta)
    prompts = prior.encode(list(texts))
    guide: Guide = GUIDES[args.guide](prior, prompts)
    rate = GUIDES[args.guide].learning_rate if args.learning_rate is None else args.learning_rate
    result = fit(
        model,
        guide,
        prompts,
        num_steps=args.steps,
        objective=LeaveOneOut_ELBO(args.particles),
        optimizer=FusedOptimizer(
            options={"lr": rate},
            clip_norm=1.0,
            schedule=cosine(args.steps, warmup=args.steps // 20),
        ),
        prompts_per_step=4,
        seed=args.seed,
        on_step=folder.append_metrics,
        progress=False,
    )
    save_guide(folder.guide, guide, args.guide, {}, prompts)
    columns = ["proxy reward", "KL to the prior", *(["gold reward"] if gold else [])]
    rows = {}
    for name, program in {"prior": None, "guide": guide}.items():
        distribution = (
            prior(prompts) if program is None else response_distribution(program, prompts)
        )
        response = distribution.sample(torch.Size([args.samples]))
        flat = [text for row in prior.decode(response, prompts) for text in row]
        shape = (args.samples, len(prompts))
        log_likelihood = AGGREGATIONS[args.aggregation](posterior(flat).cpu(), args.beta)
        scores = {"proxy": args.beta * log_likelihood.view(shape)}
        if gold is not None:
            scores["gold"] = gold(flat).view(shape)
        kl = "0"
        if program is not None:
            found = diagnose(
                model, program, prompts, num_samples=args.samples, num_prior_draws=args.samples
            )
            kl = str(found.kl_guide_prior)
        proxy_cell, *gold_cell = (str(Estimate.of_mean(score)) for score in scores.values())
        rows[name] = [proxy_cell, kl, *gold_cell]
    if bank is not None:
        curve = sweep(
            bank,
            posterior(bank.texts),
            AGGREGATIONS[args.aggregation],
            torch.tensor([args.beta]),
            min_effective=0,
        )
        size = curve.effective_sample_size.item()
        rows[f"posterior, from draws worth {size:.0f}"] = [
            f"{curve.proxy.item():.3f}",
            f"{curve.kl.item():.3f}",
            f"{curve.gold.item():.3f}",
        ]
    title = f"A guide, {args.guide}, {args.steps} steps on the {args.aggregation} of the last reward at beta {args.beta:g}"
    stopped = (
        "" if result.stopped_early is None else f"\nThe fit stopped early at {result.stopped_early}"
    )
    return f"{title}{stopped}\n{text_table(columns, rows)}"


def finish(folder: RunFolder, text: str, pictures: Sequence[Path]) -> None:
    """Print what was found, and leave it as text and as a page."""
    (folder.path / "report.txt").write_text(text + "\n", encoding="utf-8")
    drawn = "".join(
        path.read_text(encoding="utf-8").partition("<svg")[2].join(["<figure><svg", "</figure>"])
        for path in pictures
    )
    page = f"<!doctype html><meta charset=utf-8><title>rlhf</title><pre>{html.escape(text)}</pre>{drawn}\n"
    folder.report.write_text(page, encoding="utf-8")
    print(
        f"{text}\n\nOpen {folder.report}; the reward is in {folder.path / 'reward'}, the guide in {folder.guide}."
    )
