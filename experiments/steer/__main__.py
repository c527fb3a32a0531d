"""Steer a language model towards a reward, and measure how far it is from its posterior.

Question: how close does variational inference bring a language model q to its posterior,
p*(x) = p0(x) exp(r(x)/beta) / Z?
Claim (Korbak, Perez and Buckley 2022): KL-regularised RL maximises the ELBO, whose gap to log Z is
KL(q || p*).
Printed: samples and rewards before and after the fit; log Z, ELBO, KL(q || p*), KL(p* || q), reward
and KL to the prior, each with its standard error; the remaining share of the gap. Written: a run
folder with arguments, metrics, guide, figures and `report.html`.

    python -m experiments.steer
    python -m experiments.steer --guide lora --lora.rank 4
    python -m experiments.steer --beta 0.3 --prompts "The plot" "The music" --objective trace
    python -m experiments.steer --reward vader "0.05*length" --kl-budget 3
    python -m experiments.steer --constraint words:music,song --objective forward-kl
    python -m experiments.steer --reward --moment words:film=0.5 --objective forward-kl
    python -m experiments.steer --reward --factor marginal-likelihood:RUN/reward
    python -m experiments.steer --prior smollm2 --time 10m
    python -m experiments.steer --prior smollm2 --dataset questions.jsonl --system "Be brief."
    python -m experiments.steer --prior smollm2 --dataset questions.jsonl --reward accuracy
    python -m experiments.steer --sample smc --budget 4096
    python -m experiments.steer --sample importance --proposal runs/steer-20250101-120000/guide
    python -m experiments.steer --config runs/steer-20250101-120000/arguments.json --seed 1
    python -m experiments.steer --resume runs/steer-20250101-120000
    torchrun --nproc-per-node 2 -m experiments.steer
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pyro
import torch

from experiments.shared.command_line import run_script
from experiments.shared.refusals import FAULTS, blamed, one_line, resume_hint
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.training import build_guide
from experiments.steer.arguments import Steer
from experiments.steer.checks import check
from experiments.steer.decoding import sample_posterior
from experiments.steer.expectations import is_all_reward, measure, measure_posterior
from experiments.steer.inputs import Input, digests_of, inputs_of
from experiments.steer.interrupted import reported
from experiments.steer.live.page import LivePage
from experiments.steer.measurements import model_card, write_measurements
from experiments.steer.posterior import build_model, draw_prior
from experiments.steer.processes import Launch, first_speaks, joined
from experiments.steer.prompts import RunPrompts, load_prompts
from experiments.steer.report import Report, sample_texts
from experiments.steer.resuming import check_inputs, old_folder, own_arguments, resume_command
from experiments.steer.step_log import StepLog, new_trackers
from experiments.steer.views import Levels, RunSoFar
from experiments.steer.wording import in_options
from guides import FineTuned, Fixed, Guide, LoRA
from guides.saved import save_guide, write_card
from guides.shards import shard
from inference import OBJECTIVES, Fit, PriorSample, Program, fit, random_state
from inference.svi.anneal import soften
from model import AlignmentModel, LanguageModel, LikelihoodError, Prompts
from model.common import ranks
from model.networks.placement import named_device
from model.networks.sharded_modules import gathered
from model.prior.named_priors import load_prior
from model.prior.same_responses import check_same_responses


def main(args: Steer) -> RunFolder:
    """Fit a guide to the posterior, and report the gap between them before and after the fit."""
    with in_options(), joined(args.device) as launch:
        if launch.earlier is not None and args.resume is None:
            args = replace(args, resume=launch.earlier, complete=False)
        return run(args, launch)


def run(args: Steer, launch: Launch) -> RunFolder:
    """Run the script, together with the other processes if there are any."""
    args, inputs = prepare(args)
    prior, prompts = load(args)
    model = build_posterior(args, prior, prompts.measured)
    args = replace(args, beta=model.beta)
    folders = launch.folder(lambda: open_folder(args, inputs))
    with folders as folder, resume_hint(lambda: resume_command(folder, args)):
        print(f"run folder {folder.path}")
        if args.sample is None:
            train(args, model, prompts, folder)
        else:
            print(*prompts.notes, sep="\n")
            sample_posterior(args, model, prompts.measured, folder)
    return folder


def train(args: Steer, model: AlignmentModel, prompts: RunPrompts, folder: RunFolder) -> None:
    """Fit a guide, measure prior and guide, and report."""
    target = model if args.penalty is None else soften(model, args.penalty)
    every, measured, _ = prompts
    guide = new_guide(args, target, model.prior, every)
    every, measured = every.to(model.prior.device), measured.to(model.prior.device)
    print(measured_draws(args, measured))
    with random_state.isolated(args.seed + 1):
        prior_sample = draw_prior(target, model, measured, args.prior_draws)
        first = Fixed(model.prior) if args.student is None else guide
        before = measure(model, target, first, measured, prior_sample, args.samples)
    is_first = ranks.is_first()
    names = args.report_to if is_first else ()
    with new_trackers(names, folder, is_resumed=args.resume is not None) as trackers:
        start, elbo = time.perf_counter(), before.diagnostics.elbo
        so_far = RunSoFar(folder, args.title, model, guide, measured, prior_sample, elbo)
        page = LivePage(so_far, args.fit_budget) if args.watch and is_first else None
        log = StepLog(folder, trackers, page)
        # a report needs all ranks if they share a network
        interrupted = reported(so_far) if args.shard is None else nullcontext()
        with interrupted, page or nullcontext():
            result = fit(target, guide, every, **fit_settings(args, folder), on_step=log)
        seconds = time.perf_counter() - start
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
    has_factors = not is_all_reward(model, measured)
    columns = before, after, posterior
    origin = "prior" if args.student is None else "student"
    about = args.title, args.beta, *columns, samples, seconds
    report = Report(*about, has_factors=has_factors, fit_notes=notes, start=origin)
    if is_first:
        with ranks.alone():
            write(args, every, folder, report, prior_sample)


def measured_draws(args: Steer, measured: Prompts) -> str:
    """A sentence on the responses that measure prior and guide, and the options that set them."""
    count = len(measured)
    prior, guide = count * args.prior_draws, count * args.samples
    return (
        f"measured on {prior:,} responses of the prior, and {guide:,} of the guide before and "
        f"after the fit, to {count} prompt{'s' * (count > 1)} (--prior-draws, --samples, "
        "--measured-prompts)"
    )


def write(
    args: Steer, prompts: Prompts, folder: RunFolder, report: Report, prior_sample: PriorSample
) -> None:
    """Write measurements, model cards, figures and report."""
    write_measurements(folder, report)
    write_cards(args, prompts, folder, report)
    from experiments.steer.figures import write_figures  # matplotlib takes time to import

    levels = Levels.of_report(report)
    report.write(folder, write_figures(folder, levels, prior_sample, args.beta))


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


def prepare(args: Steer) -> tuple[Steer, list[Input]]:
    """Check the arguments, those of the run to resume if there is one, and the input files."""
    if args.resume is not None:
        args = own_arguments(args)
    check(args)
    files = args.prior, args.student, args.prompts_file, args.dataset, args.proposal
    inputs = inputs_of(*files, args.choices)
    if args.resume is not None:
        check_inputs(RunFolder(args.resume), inputs)
    return args, inputs


def load(args: Steer) -> tuple[LanguageModel, RunPrompts]:
    """Load the prior, and read and encode the prompts."""
    with blamed(f"--prior {args.prior}", FAULTS):
        prior = load_prior(args.prior, **args.loading)
    print_size(f"prior {args.prior}", prior)
    return prior, load_prompts(args, prior)


def build_posterior(args: Steer, prior: LanguageModel, prompts: Prompts) -> AlignmentModel:
    """Build the model. A resumed run has the beta that meets its budget."""
    budget = args.beta_budget if args.resume is None else {}
    draws = {"num_draws": args.prior_draws, "seed": args.seed}
    code = args.trust_remote_code
    return build_model(
        args.choices, prior, prompts, args.beta, budget, **draws, trust_remote_code=code
    )


def open_folder(args: Steer, inputs: list[Input]) -> AbstractContextManager[RunFolder]:
    """Make a run folder, or open the folder of the run to resume."""
    if args.resume is None:
        return new_folder(args, "steer", digests_of(inputs))
    return old_folder(args, inputs)


def load_start(args: Steer, prior: LanguageModel) -> LanguageModel:
    """Language model that the guide starts from: the prior, or the student."""
    if args.student is None:
        return prior
    fix = "A student has the teacher's tokenizer, with as many token ids"
    with blamed(f"--student {args.student}", FAULTS):
        student = load_prior(args.student, **args.loading)
        check_same_responses("the student", student, prior, fix)
    print_size(f"student {args.student}", student)
    return student


def print_size(name: str, language_model: LanguageModel) -> None:
    """Print the size of a language model, and its device."""
    size = sum(parameter.numel() for parameter in language_model.parameters())
    print(f"{name}, {size:,} parameters, on {language_model.device}")


def new_guide(args: Steer, target: Program, prior: LanguageModel, prompts: Prompts) -> Guide:
    """Build the guide; exit if the objective, on two responses to a prompt, cannot be computed."""
    start = load_start(args, prior)
    with random_state.isolated(args.seed):
        guide = build_guide(args.guide, args.guide_options, start, prompts)
    dtypes = {parameter.dtype for parameter in guide.trained().values()}
    if isinstance(guide, FineTuned) and torch.bfloat16 in dtypes:
        fix = "add --fine-tuned.dtype float32, or choose --guide lora"
        print(f"training in bfloat16 loses most updates, which are small: {fix}")
    print(f"guide {args.guide}, {guide.num_trained_parameters():,} trained parameters")
    if args.shard is not None:
        shard_networks(args, guide, prior)
    prompts = prompts.to(prior.device)
    with blamed(f"--objective {args.objective} with --guide {args.guide}"):
        guide.distribution(prompts)
        with pyro.get_param_store().scope(), random_state.isolated(args.seed):
            try:
                OBJECTIVES[args.objective](num_particles=2).loss(target, guide, prompts[[0]])
            except LikelihoodError as error:  # names the reward or the factor itself
                raise SystemExit(one_line(error)) from error
    return guide


def shard_networks(args: Steer, guide: Guide, prior: LanguageModel) -> None:
    """Shard the guide, or guide and prior, on the device of the run."""
    device = named_device(args.device)
    with blamed(f"--shard {args.shard}"):
        shard(
            guide,
            prior if args.shard == "both" else None,
            gather_draws=args.gather_draws,
            device=device,
        )
    if args.shard == "guide":
        prior.to(device)


def save(args: Steer, guide: Guide, prompts: Prompts, folder: RunFolder) -> None:
    """Save the guide, and the merged network with `--merge`."""
    save_guide(folder.guide, guide, args.guide, args.guide_options, prompts)
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


if __name__ == "__main__":
    with first_speaks():
        run_script(main, Steer)
