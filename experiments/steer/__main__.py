"""Steer a language model towards a reward, and measure how far it is from the posterior it should become.

Question: how close does variational inference bring a language model q to p*(x) = p0(x) exp(r(x)/beta) / Z?
Claim (Korbak, Perez and Buckley 2022): KL-regularised RL maximises the ELBO, whose gap to log Z is KL(q || p*).
Printed: samples and rewards before and after; log Z, ELBO, both divergences, reward and KL to the prior, each with its
standard error; what is left of the gap. Written: a run folder with arguments, metrics, guide, figures and `report.html`.

    python -m experiments.steer
    python -m experiments.steer --guide lora --lora.rank 4
    python -m experiments.steer --beta 0.3 --prompts "The plot" "The music" --objective trace
    python -m experiments.steer --reward vader "0.05*length" --kl-budget 3
    python -m experiments.steer --reward vader --constraint words:music,song --objective forward-kl
    python -m experiments.steer --reward --moment words:film=0.5 --objective forward-kl
    python -m experiments.steer --prior smollm2 --prompts "My favourite film is" --learning-rate 1e-5 --steps 20
    python -m experiments.steer --sample smc --budget 4096
    python -m experiments.steer --sample importance --proposal runs/steer-20250101-120000/guide
    python -m experiments.steer --resume runs/steer-20250101-120000
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyro
import torch
import tyro

from experiments.shared.argument_types import (
    SOME,
    Count,
    Device,
    DtypeName,
    GuideName,
    Length,
    Name,
    ObjectiveName,
    Out,
    Positive,
    Rate,
    SamplerName,
    Seed,
    TextFile,
    Threads,
    count,
    described,
    number,
    used,
)
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.figures import save
from experiments.shared.guide_options import (
    FILE,
    GuideOptions,
    build_guide,
    check_options,
    load_guide,
    options_of,
    restored_options,
    save_guide,
)
from experiments.shared.refusals import FAULTS, blamed, resume_hint
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.workers import set_threads
from experiments.steer.decoding import Decoding, with_rewards
from experiments.steer.figures import elbo_figure, reward_kl_figure
from experiments.steer.inputs import Input, digests_of
from experiments.steer.judge import Judge
from experiments.steer.posterior_options import HELP, budgeted_beta, matched, read_choices
from experiments.steer.report import Report, without_folders
from experiments.steer.resuming import check_fields, check_given, check_inputs, old_folder
from guides import GUIDES, Fixed, Guide, LoRA
from inference import (
    OBJECTIVES,
    SAMPLERS,
    Fit,
    FusedOptimizer,
    PriorSample,
    Program,
    cosine,
    diagnose,
    fit,
    random_state,
    response_distribution,
    sample_prior,
)
from inference.svi.anneal import soften
from inference.svi.checkpoint.folder import has_checkpoint
from inference.svi.step import Metrics
from model import AlignmentModel, LanguageModel, Prompts
from model.common.input_files import checkpoint_files, one_file
from model.common.texts import read_lines
from model.prior.named_priors import load_prior, prior_files
from model.registry import REWARDS

TRAINED = used(lambda args: args.sample is None, "with --sample, which trains nothing")
SAMPLED = used(lambda args: args.sample is not None, "without --sample")
NO_FILE = used(lambda args: args.prompts_file is None, "with --prompts-file")
NO_BUDGET = used(lambda args: not args.budgeted, "with a budget, which is solved for beta")
FROM_PRIOR = used(lambda args: args.draws_prior, "with --sample, but for budgets and moments")


@dataclass(frozen=True)
class Steer(Arguments):
    """Turn a language model into an approximation of its posterior under a reward, by Pyro's SVI."""

    prior: Name = "film-reviews"
    """p0: `film-reviews` (embedded), `smollm2` (135M parameters; `make smollm2` first), a folder in Hugging Face format, or a
    name on the hub."""
    reward: Annotated[tuple[str, ...], tyro.conf.arg(help=HELP)] = ("vader",)
    constraint: Annotated[
        tuple[str, ...], used(lambda args: args.constraint, "where it names nothing")
    ] = ()
    """Hard constraints, each a reward and a threshold, as in `vader>=0.5` or `words:war<=0`; without one, at least 1. A word
    that ends like a threshold needs one of its own: `words:x=5>=1`.
    Objectives of KL(q || p*) refuse them: choose `--objective forward-kl`, a sampler, or a `--penalty`."""
    moment: Annotated[
        tuple[str, ...], used(lambda args: args.moment, "where it names nothing")
    ] = ()
    """Distributional constraints, each a reward and the mean that it is to have, as in `words:film=0.5`, over prompts: of all
    that have them the posterior is the one nearest to that of the other evidence."""
    penalty: Positive | None = None
    """Nats that a forbidden response costs, in place of being impossible: the constraints made soft."""
    beta: Annotated[Positive, NO_BUDGET] = 0.1
    """Reward per nat: how much reward is worth one nat of distance from the prior. Smaller steers harder."""
    kl_budget: Positive | None = None
    """In place of beta: so many nats that the posterior may be from the prior, KL(p* || p0), averaged over prompts."""
    min_reward: Annotated[float, number()] | None = None
    """In place of beta: the reward that the posterior is to have, E[r], averaged over prompts."""
    guide: Annotated[GuideName, tyro.conf.arg(help=described("q, what is trained.", GUIDES))] = (
        "fine-tuned"
    )
    options: Annotated[GuideOptions, tyro.conf.arg(name="")] = field(default_factory=GuideOptions)
    objective: Annotated[
        ObjectiveName, TRAINED, tyro.conf.arg(help=described("What SVI descends.", OBJECTIVES))
    ] = "leave-one-out"
    sample: Annotated[
        SamplerName | None,
        tyro.conf.arg(
            help=described(
                "Sample the posterior at decoding time, with no training at all, by:", SAMPLERS
            )
        ),
    ] = None
    budget: Annotated[Count, SAMPLED] = 4096
    """With `--sample`: responses drawn for each prompt."""
    proposal: Path | None = None
    """With `--sample`: a tuned guide to draw from, such as RUN/guide, or a language model in Hugging Face format; default
    `--guide`, if that needs no training, else the prior."""
    prompts: Annotated[tuple[str, ...], SOME, NO_FILE] = (
        "The film was",
        "The movie was",
    )
    """What the responses continue."""
    prompts_file: TextFile | None = None
    """A text file with a prompt a line, in place of `--prompts`."""
    prompts_per_step: Annotated[Count, TRAINED] | None = None
    """A random subset of so many prompts a step, all where there are no more; default all."""
    max_new_tokens: Length = 12
    """T: the most tokens a response has."""
    temperature: Positive = 0.7
    """Divides the logits of prior and guide alike. Below 1 the prior writes with more care, and there is less to learn."""
    steps: Annotated[Count, TRAINED] = 150
    """Steps of SVI."""
    particles: Annotated[Count, TRAINED] = 32
    """K: responses drawn a step for each prompt."""
    learning_rate: Annotated[Rate, TRAINED] | None = None
    """Peak learning rate of Adam; a warm-up over a twentieth of the steps, then a cosine to zero. Default: what suits the guide
    on the embedded prior, 8e-5 for `fine-tuned`; larger networks want less."""
    clip_norm: Annotated[Positive, TRAINED] | None = None
    """Scale the gradient down to this norm. With leave-one-out it shrinks by itself as the gap closes; a clip that always bites
    would keep the noise of the steps as it was."""
    samples: Annotated[int, count(2)] = 512
    """Responses of the guide, for each prompt, that the final measurement draws."""
    prior_draws: Annotated[int, count(2), FROM_PRIOR] = 2048
    """Responses of the prior, for each prompt, behind log Z and the exact posterior samples."""
    seed: Seed = 0
    """Of every random number."""
    device: Device | None = None
    """`cpu` or `cuda`; default a GPU where there is one."""
    dtype: DtypeName = "float32"
    """Of the weights."""
    trust_remote_code: bool = False
    """Run the code that comes with a checkpoint, of the prior or of a reward; without it such a checkpoint is refused. Never
    taken from the run that `--resume` goes on with."""
    threads: Threads | None = None
    """CPU threads; default torch's choice."""
    checkpoint_every: Annotated[Count, TRAINED] = 50
    """Steps between checkpoints."""
    out: Out = Path("runs")
    """The run folder is made in here."""
    merge: bool = False
    """With `--guide lora`: also write prior and adapter merged into one network, RUN/merged, in Hugging Face format."""
    resume: Path | None = None
    """A run folder to go on with, from its last checkpoint, with its arguments and the files that they name. Another argument
    given here is refused, more `--steps` aside; what changed since then is too."""
    complete: Annotated[bool, tyro.conf.Suppress] = False
    """Whether all other fields are those of the run to go on with, or were given beside `--resume`."""

    def completed(self, parse: Callable[[Steer], Steer]) -> Steer:
        if self.resume is None:
            return self
        return replace(
            parse(restored(self, RunFolder(self.resume).read_arguments())), complete=True
        )

    @property
    def budgeted(self) -> bool:
        """Whether beta is solved for."""
        return not (self.kl_budget is None and self.min_reward is None)

    @property
    def draws_prior(self) -> bool:
        """Whether anything is known from draws of the prior."""
        return self.sample is None or self.budgeted or bool(self.moment)


def main(args: Steer) -> RunFolder:
    if args.resume is not None:
        args = own_arguments(args)
    check(args)
    inputs = inputs_of(args)
    if args.resume is not None:
        check_inputs(RunFolder(args.resume), inputs)
    set_threads(args.threads)
    prior = load(args, args.prior)
    with blamed(
        "--prompts" if args.prompts_file is None else f"--prompts-file {args.prompts_file}"
    ):
        prompts = prior.encode(read_prompts(args))
    args, model = choose_posterior(args, prior, prompts)
    size = sum(parameter.numel() for parameter in prior.parameters())
    folders = (
        new_folder(args, "steer", digests_of(inputs))
        if args.resume is None
        else old_folder(args, args.resume, inputs)
    )
    with folders as folder, resume_hint(lambda: to_resume(folder)):
        print(
            f"prior {args.prior}, {size:,} parameters, on {prior.device}; run folder {folder.path}"
        )
        (tune if args.sample is None else run_sampler)(args, model, prompts, folder)
    return folder


def inputs_of(args: Steer) -> list[Input]:
    """The files that the arguments name."""
    inputs = [Input(f"--prior {args.prior}", prior_files(args.prior))]
    if args.prompts_file is not None:
        inputs.append(Input(f"--prompts-file {args.prompts_file}", one_file(args.prompts_file)))
    if args.proposal is not None:
        inputs.append(Input(f"--proposal {args.proposal}", checkpoint_files(args.proposal)))
    for choice in read_choices(args.reward, args.constraint, args.moment):
        reward = REWARDS[choice.name]
        if reward.files is not None:
            inputs.append(
                Input(f"{choice.option} {choice.text}", reward.files(choice.argument), reward.runs)
            )
    return inputs


def choose_posterior(
    args: Steer, prior: LanguageModel, prompts: Prompts
) -> tuple[Steer, AlignmentModel]:
    """The model whose posterior is wanted; with a budget in the arguments, they have the beta that spends it."""
    chosen = read_choices(args.reward, args.constraint, args.moment)
    trust = args.trust_remote_code
    pieces: dict[str, dict[str, Any]] = {"--reward": {}, "--constraint": {}}
    for choice in chosen:
        if choice.mean is None:
            pieces[choice.option][choice.text] = choice.piece(prior, trust_remote_code=trust)
    rewards, factors = pieces.values()
    if args.resume is None and args.budgeted:
        budget = {"max_kl": args.kl_budget, "min_reward": args.min_reward}
        beta = budgeted_beta(
            prior, rewards, factors, prompts, **budget, num_draws=args.prior_draws, seed=args.seed
        )
        args = replace(args, beta=beta)
    with blamed("--reward"):
        model = AlignmentModel(prior, rewards, args.beta, factors)
    if moments := [choice for choice in chosen if choice.mean is not None]:
        counts = {"num_draws": args.prior_draws, "seed": args.seed}
        model = matched(model, moments, prompts, **counts, trust_remote_code=trust)
    return args, model


def tune(args: Steer, model: AlignmentModel, prompts: Prompts, folder: RunFolder) -> None:
    """Train a guide, measure it before and after, print what came, and write the report."""
    target = model if args.penalty is None else soften(model, args.penalty)
    with random_state.isolated(args.seed):
        guide = build_guide(args.guide, options_of(args.guide, args.options), model.prior, prompts)
    if args.guide == "fine-tuned" and next(iter(guide.trained().values())).dtype == torch.bfloat16:
        print(
            "training in bfloat16 loses most updates at this rate: add --fine-tuned.dtype float32, or choose --guide lora"
        )
    print(f"guide {args.guide}, {guide.num_trained_parameters():,} trained parameters")
    try_objective(args, target, guide, prompts)

    with random_state.isolated(args.seed + 1):
        draws = draw_prior(args, model, target, prompts)
        measure = partial(
            diagnose, target, guide, prompts, num_samples=args.samples, prior_sample=draws
        )
        before = measure()
        judge = Judge(model) if args.constraint or args.moment else None
        judged = (
            []
            if judge is None
            else [judge.of_draws(prompts, response_distribution(guide, prompts), args.samples)]
        )

    result, seconds = run_svi(args, target, guide, prompts, folder)
    with random_state.isolated(args.seed + 2):
        after = measure()
        if judge is not None:
            judged.append(
                judge.of_draws(prompts, response_distribution(guide, prompts), args.samples)
            )
            judged.append(judge.of_posterior(prompts, draws))
        samples = {
            "Before, from the prior": with_rewards(
                model, prompts, response_distribution(model, prompts).sample((2,))
            ),
            "After, from the guide": with_rewards(
                model, prompts, response_distribution(guide, prompts).sample((2,))
            ),
        }
    save_guide(folder.guide, guide, args.guide, options_of(args.guide, args.options), prompts)
    if isinstance(guide, LoRA) and args.merge:
        guide.merged().save_pretrained(folder.path / "merged")

    report = Report(
        title=without_folders(
            f"{args.prior} steered by {told(args)}: {args.guide}, {args.objective}, {args.steps} steps"
        ),
        beta=args.beta,
        before=before,
        after=after,
        posterior_log_likelihood=draws.mean(draws.log_likelihood, draws.log_likelihood),
        kl_posterior_prior=draws.kl(draws.log_likelihood),
        samples=samples,
        seconds=seconds,
        judged=judged,
        notes=[] if result.stopped_early is None else [f"Stopped early at {result.stopped_early}"],
    )
    report.write_html(folder.report, draw_figures(report, draws, folder))
    print(report.text())
    print(f"\nOpen {folder.report}; the guide is in {folder.guide}, which --proposal takes.")


def draw_prior(
    args: Steer, model: AlignmentModel, target: Program, prompts: Prompts
) -> PriorSample:
    """Draws of the prior with their evidence; exit if that rules out all of them, after some prompt."""
    with blamed("--reward"):
        draws = sample_prior(
            target,
            prompts,
            args.prior_draws,
            independent=True,
            log_likelihood_bound=model.log_likelihood_bound(prompts),
        )
    if bool((hopeless := draws.log_likelihood.isneginf().all(0)).any()):
        text = prompts.texts[int(hopeless.int().argmax())]
        raise SystemExit(
            f"--constraint: none of {args.prior_draws} draws of the prior after {text!r} meets it; add a --penalty"
        )
    return draws


def check(args: Steer) -> None:
    """What could only fail after a while is refused at once."""
    read_choices(args.reward, args.constraint, args.moment)
    if args.moment and (args.penalty is not None or args.budgeted):
        raise SystemExit(
            "--moment moves the posterior that a budget or a --penalty would have made: leave either out"
        )
    if args.penalty is not None and not args.constraint:
        raise SystemExit(
            f"--penalty {args.penalty:g} is for what --constraint forbids, which is not given"
        )
    if args.penalty is not None and args.sample is not None:
        raise SystemExit("--penalty is for SVI: samplers take hard constraints as they are")
    if (
        args.constraint
        and args.penalty is None
        and args.sample is None
        and not OBJECTIVES[args.objective].supports_hard_constraints
    ):
        supporting = ", ".join(n for n, o in OBJECTIVES.items() if o.supports_hard_constraints)
        raise SystemExit(
            f"--objective {args.objective} descends a divergence that --constraint makes infinite: choose one of {supporting}; or "
            "add a --penalty, which makes it soft; or --sample"
        )
    if args.penalty is not None and args.budgeted:
        raise SystemExit(
            "--penalty is given with a budget, which is solved for what is hard: leave one of them out"
        )
    if args.kl_budget is not None and args.min_reward is not None:
        raise SystemExit("--kl-budget and --min-reward are both given: beta can meet one of them")
    if args.sample is None:
        try:
            OBJECTIVES[args.objective](num_particles=args.particles)
        except (ValueError, AssertionError) as error:
            raise SystemExit(
                f"--particles {args.particles} with --objective {args.objective}: {error}"
            ) from error
    check_options(args.guide, args.options)
    trains = GUIDES[args.guide].trains
    if args.sample is None and not trains:
        raise SystemExit(
            f"--guide {args.guide} has nothing to train: add --sample, whose proposal it can be"
        )
    if args.sample is not None and trains and args.guide != Steer.guide:
        raise SystemExit(
            f"--sample trains nothing: train --guide {args.guide} without it, then name RUN/guide as --proposal"
        )
    if args.merge and not GUIDES[args.guide].can_merge:
        raise SystemExit(f"--merge is for --guide lora, got --guide {args.guide}")
    several = len(args.prompts) > 1 or args.prompts_file is not None
    if (
        args.sample is None
        and OBJECTIVES[args.objective].max_prompts == 1
        and several
        and args.prompts_per_step != 1
    ):
        raise SystemExit(
            f"--objective {args.objective} takes one prompt a step: add --prompts-per-step 1, or use wake-phi"
        )
    if args.proposal is not None and args.sample is None:
        raise SystemExit(f"--proposal {args.proposal} is for --sample, which is not given")


def load(args: Steer, name: str) -> LanguageModel:
    """A language model, with the responses and the precision that the arguments ask for."""
    with blamed(f"{'--prior' if name == args.prior else '--proposal'} {name}", FAULTS):
        return load_prior(
            name,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            dtype=args.dtype,
            device=args.device,
            trust_remote_code=args.trust_remote_code,
        )


def told(args: Steer) -> str:
    """The evidence in words."""
    penalty = "" if args.penalty is None else f" (soft, {args.penalty:g} nats)"
    given = "".join(f" given {constraint}{penalty}" for constraint in args.constraint)
    moments = f" with means {', '.join(args.moment)}" if args.moment else ""
    return f"{' + '.join(args.reward) or 'no reward'}{given}{moments}, beta {args.beta:g}"


def read_proposal(args: Steer, prior: LanguageModel, prompts: Prompts) -> Guide | None:
    """A guide that an earlier run left, or any language model, or a guide that needs no training; None for the prior."""
    if args.proposal is None:
        trained = GUIDES[args.guide].trains
        return (
            None
            if trained
            else build_guide(args.guide, options_of(args.guide, args.options), prior, prompts)
        )
    if (args.proposal / FILE).is_file():
        with blamed(f"--proposal {args.proposal}", FAULTS):
            return load_guide(args.proposal, prior)
    return Fixed(load(args, str(args.proposal)))


def try_objective(args: Steer, model: Program, guide: Guide, prompts: Prompts) -> None:
    """Exit if guide, prompts and objective do not go together: on two responses, before anything is spent."""
    with blamed(f"--objective {args.objective} with --guide {args.guide}"):
        guide.distribution(prompts)
        with pyro.get_param_store().scope(), random_state.isolated(args.seed):
            OBJECTIVES[args.objective](num_particles=2).loss(model, guide, prompts[[0]])


def run_sampler(args: Steer, model: AlignmentModel, prompts: Prompts, folder: RunFolder) -> None:
    """Sample the posterior, print what came, and write `draws.jsonl`."""
    assert args.sample is not None
    guide = read_proposal(args, model.prior, prompts)
    with random_state.isolated(args.seed):
        began = time.perf_counter()
        with blamed(f"--sample {args.sample}"):
            posterior = SAMPLERS[args.sample](model, prompts, guide=guide, num_samples=args.budget)
        seconds = time.perf_counter() - began
        proposal = args.proposal or ("the prior" if guide is None else args.guide)
        title = f"{args.prior} under {told(args)}: {args.sample}, {args.budget} responses from {proposal}"
        before = response_distribution(model, prompts).sample(torch.Size([args.samples]))
        decoding = Decoding(title, model, prompts, posterior, before, seconds)
        print(decoding.text())
        decoding.write(folder.path / "draws.jsonl")
    print(f"\nDraws in {folder.path / 'draws.jsonl'}.")


def run_svi(
    args: Steer, model: Program, guide: Guide, prompts: Prompts, folder: RunFolder
) -> tuple[Fit, float]:
    """Train the guide, or go on with it. Returns the fit and its wall time, seconds."""
    suits = GUIDES[args.guide].rate(options_of(args.guide, args.options))
    rate = suits if args.learning_rate is None else args.learning_rate
    schedule = cosine(args.steps, warmup=args.steps // 20)
    began = time.perf_counter()
    result = fit(
        model,
        guide,
        prompts,
        num_steps=args.steps,
        objective=OBJECTIVES[args.objective](num_particles=args.particles),
        optimizer=FusedOptimizer(options={"lr": rate}, clip_norm=args.clip_norm, schedule=schedule),
        prompts_per_step=args.prompts_per_step,
        seed=args.seed,
        checkpoint_folder=folder.checkpoints,
        checkpoint_every=args.checkpoint_every,
        resume=args.resume is not None,
        on_step=lambda metrics: folder.append_metrics(with_reward(metrics, args)),
    )
    return result, time.perf_counter() - began


def to_resume(folder: RunFolder) -> str:
    """The command that goes on with a run that was interrupted; empty if it has no checkpoint."""
    return (
        f"To go on: python -m experiments.steer --resume {folder.path}"
        if has_checkpoint(folder.checkpoints)
        else ""
    )


def draw_figures(report: Report, draws: PriorSample, folder: RunFolder) -> list[Path]:
    """The run's figures, written into its folder; none if it has no metrics. Steps that scored nothing are left out."""
    metrics = [
        record
        for record in folder.read_metrics()
        if math.isfinite(record["log_likelihood"] + record["elbo"])
    ]
    if not metrics:
        return []
    after = report.after
    drawn = {"elbo": elbo_figure(metrics, report.before.log_z, report.before.elbo, after.elbo)}
    if not report.judged:  # else part of the evidence is no reward
        ends_at = (after.kl_guide_prior, after.log_likelihood.times(report.beta))
        drawn["reward_kl"] = reward_kl_figure(metrics, draws, report.beta, ends_at)
    return [save(figure, folder.path / f"{name}.svg") for name, figure in drawn.items()]


def read_prompts(args: Steer) -> list[str]:
    """The prompts of the arguments, from the file if one is named; its empty lines are skipped."""
    if args.prompts_file is None:
        return list(args.prompts)
    with blamed("--prompts-file"):
        lines = read_lines(args.prompts_file)
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise SystemExit(f"--prompts-file {args.prompts_file} has no prompts: expected one a line")
    return prompts


def own_arguments(args: Steer) -> Steer:
    """The arguments of the run that `args.resume` names, with more steps if more were asked for."""
    assert args.resume is not None
    own = restored(args, RunFolder(args.resume).read_arguments())
    check_given(args, own, None if args.complete else Steer())
    more = args.complete or args.steps != Steer.steps
    return replace(own, steps=args.steps) if more else own


def restored(args: Steer, saved: dict[str, Any]) -> Steer:
    """The arguments of the run that `args.resume` names. Exits if they are of another script."""
    check_fields(args, saved)
    paths = {
        name: Path(saved[name])
        for name in ("prompts_file", "out", "proposal")
        if saved[name] is not None
    }
    reward = saved["reward"]
    named = {
        "reward": (reward,) if isinstance(reward, str) else tuple(reward),
        "constraint": tuple(saved.get("constraint", ())),
        "moment": tuple(saved.get("moment", ())),
    }
    rebuilt = named | {
        "prompts": tuple(saved["prompts"]),
        "options": restored_options(saved.get("options", {})),
        "resume": args.resume,
        "trust_remote_code": args.trust_remote_code,
        "complete": args.complete,
    }
    return replace(args, **(saved | paths | rebuilt))


def with_reward(metrics: Metrics, args: Steer) -> Metrics:
    """A step's metrics with the KL to the prior, and with the reward if the evidence is nothing else."""
    found = metrics | {"kl_guide_prior": metrics["log_likelihood"] - metrics["elbo"]}
    return (
        found
        if args.constraint or args.moment
        else found | {"reward": args.beta * metrics["log_likelihood"]}
    )


if __name__ == "__main__":
    run_script(main, Steer)
