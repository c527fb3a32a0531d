"""Training of a run: the fit, measurements before and after, and all that the folder receives."""

from contextlib import nullcontext
from typing import Any

from experiments.shared.run_folder import RunFolder
from experiments.steer.arguments import Steer
from experiments.steer.expectations import is_all_reward, measure, measure_posterior
from experiments.steer.guide import new_guide
from experiments.steer.interrupted import reported
from experiments.steer.live.page import LivePage
from experiments.steer.measurements import model_card, write_measurements
from experiments.steer.posterior import draw_prior, noise_warnings
from experiments.steer.prompts import RunPrompts
from experiments.steer.report import Report, sample_texts
from experiments.steer.step_log import StepLog, new_trackers
from experiments.steer.views import RunSoFar
from guides import Fixed, Guide, LoRA
from guides.saved import save_guide, write_card
from inference import OBJECTIVES, Fit, PriorSample, fit, random_state
from inference.svi.anneal import soften
from model import AlignmentModel, Prompts
from model.common import ranks
from model.networks.sharded_modules import gathered


def train(args: Steer, model: AlignmentModel, prompts: RunPrompts, folder: RunFolder) -> None:
    """Fit a guide, measure prior and guide, and report."""
    target = model if args.penalty is None else soften(model, args.penalty)
    every, measured, _ = prompts
    guide = new_guide(args, target, model.prior, every)
    every, measured = every.to(model.prior.device), measured.to(model.prior.device)
    print(measured_draws(args, measured))
    with random_state.isolated(args.seed + 1):
        prior_sample = draw_prior(target, model, measured, args.prior_draws)
        noise = noise_warnings(model, measured, prior_sample.response) if ranks.is_first() else []
        first = Fixed(model.prior) if args.student is None else guide
        before = measure(model, target, first, measured, prior_sample, args.samples)
    is_first = ranks.is_first()
    names = args.report_to if is_first else ()
    with new_trackers(names, folder, is_resumed=args.resume is not None) as trackers:
        elbo, origin = before.diagnostics.elbo, "prior" if args.student is None else "student"
        so_far = RunSoFar(folder, args.title, model, guide, measured, prior_sample, elbo, origin)
        page = LivePage(so_far, args.fit_budget) if args.watch and is_first else None
        log = StepLog(folder, trackers, page)
        # a report needs all ranks if they share a network
        interrupted = reported(so_far) if args.shard is None else nullcontext()
        with interrupted, page or nullcontext():
            result = fit(target, guide, every, **fit_settings(args, folder), on_step=log)
        with gathered(guide):
            if is_first:
                with ranks.alone():
                    save(args, guide, every, folder)
        with random_state.isolated(args.seed + 2):
            after = measure(model, target, guide, measured, prior_sample, args.samples)
            posterior = measure_posterior(model, measured, prior_sample, after.diagnostics)
            samples = {
                "Before, from the prior": sample_texts(model, model, measured),
                "After, from the guide": sample_texts(model, guide, measured),
            }
        log.completions(samples)
    notes = [*prompts.notes, *target_notes(args.objective), *fit_notes(result)]
    notes += [f"Warning: {sentence}" for sentence in noise]
    has_factors = not is_all_reward(model, measured)
    columns = before, after, posterior
    about = args.title, args.beta, *columns, samples, result.state.seconds
    report = Report(*about, has_factors=has_factors, fit_notes=notes, start=origin)
    if is_first:
        with ranks.alone():
            write(args, every, folder, report, prior_sample)


def measured_draws(args: Steer, measured: Prompts) -> str:
    """A sentence on the responses that measure prior and guide, and the options that set them."""
    count = len(measured)
    prior, guide = count * args.prior_draws, count * args.samples
    return (
        f"measured on {prior:,} responses of the prior, {guide:,} more before the fit, and "
        f"{guide:,} of the guide after it, to {count} prompt{'s' * (count > 1)} (--prior-draws, "
        "--samples, --measured-prompts)"
    )


def fit_settings(args: Steer, folder: RunFolder) -> dict[str, Any]:
    """Settings of the fit."""
    return {
        **args.fit_budget,
        "objective": OBJECTIVES[args.objective](num_particles=args.particles),
        "step_kl": args.step_kl,
        "learning_rate": args.learning_rate,
        "clip_norm": args.clip_norm,
        "prompts_per_step": args.num_per_step,
        "micro_batch": args.micro_batch,
        "checkpoint_activations": args.checkpoint_activations,
        "divide": args.divide,
        "seed": args.seed,
        "checkpoint_folder": folder.checkpoints,
        "checkpoint_every": args.checkpoint_every,
        "resume": args.resume is not None,
    }


def target_notes(objective: str) -> list[str]:
    """A sentence on the target of an objective, if this is not the posterior."""
    if (target := OBJECTIVES[objective].target) == "posterior":
        return []
    return [
        f"The target of {objective} is not p*, but the distribution `{target}`: a guide at its "
        "target is still at a distance from p*. ELBO, log Z, divergences and figures are those of "
        "p*, and the ELBO may fall while the guide comes closer to its target."
    ]


def fit_notes(result: Fit) -> list[str]:
    """Sentences about the end and the health of a fit."""
    stop = [f"Stopped early at {result.stopped_early}"] if result.stopped_early else []
    end = [f"Ended before its budget: {result.at_noise}"] if result.at_noise else []
    return [*stop, *end, *(f"Warning: {warning}" for warning in result.warnings)]


def write(
    args: Steer, prompts: Prompts, folder: RunFolder, report: Report, prior_sample: PriorSample
) -> None:
    """Write measurements, model cards, figures and report."""
    write_measurements(folder, report)
    write_cards(args, prompts, folder, report)
    from experiments.steer.figures import write_figures  # matplotlib takes time to import

    after = report.after.diagnostics
    levels = after.log_z, report.before.diagnostics.elbo, after.elbo
    end = after.kl_guide_prior, after.log_likelihood.times(args.beta)
    place = None if report.has_factors else end
    report.write(
        folder, write_figures(folder, prior_sample, args.beta, levels, place, report.start)
    )


def save(args: Steer, guide: Guide, prompts: Prompts, folder: RunFolder) -> None:
    """Save the guide, and the merged network with `--merge`."""
    options, temperature = args.guide_options, args.temperature
    save_guide(folder.guide, guide, args.guide, options, prompts, temperature=temperature)
    if isinstance(guide, LoRA) and args.merge:
        guide.merged().save_pretrained(folder.merged)
    write_cards(args, prompts, folder)


def write_cards(
    args: Steer, prompts: Prompts, folder: RunFolder, report: Report | None = None
) -> None:
    """Write the model cards of the guide and of the merged network."""
    card = model_card(args, report)
    write_card(folder.guide, args.guide, prompts, card)
    if folder.merged.is_dir():
        write_card(folder.merged, args.guide, prompts, card, is_network=True)
