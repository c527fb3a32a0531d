"""Refusals of arguments that do not go together, before anything is loaded."""

from experiments.shared.command_line import check_used
from experiments.shared.refusals import blamed
from experiments.steer.arguments import Steer
from experiments.steer.guide_options import check_options
from guides import GUIDES
from inference import OBJECTIVES
from inference.svi.trackers import check_trackers
from model.common import ranks


def check(args: Steer) -> None:
    """Exit at the first pair of arguments that do not go together."""
    if args.config is not None:
        raise SystemExit("--config is an option of the command line alone")
    if args.resume is None:
        optional = {name for name, default in vars(Steer).items() if default is None}
        check_used({name for name in optional if getattr(args, name) is not None}, args)
    check_likelihood(args)
    if args.sample is None:
        check_training(args)
    elif GUIDES[args.guide].trains and args.guide != Steer.guide:
        fix = f"train --guide {args.guide} without it, then name RUN/guide as --proposal"
        raise SystemExit(f"--sample trains nothing: {fix}")
    check_options(args.guide, args.options)
    if args.shard is not None:
        check_shards(args)
    if args.merge and not GUIDES[args.guide].can_merge:
        raise SystemExit(f"--merge is for --guide lora, got --guide {args.guide}")


def check_shards(args: Steer) -> None:
    """Check that several processes share a network, which one process cannot copy."""
    if ranks.num_ranks() == 1:
        resume = "" if args.resume is None else f"--resume {args.resume} "
        fix = f"torchrun --nproc-per-node 2 -m experiments.steer {resume}--shard {args.shard}"
        raise SystemExit(f"--shard {args.shard} is for several processes: start with `{fix}`")
    if args.merge:
        raise SystemExit("--merge copies the network, which --shard divides: leave one of them out")
    if args.compile:
        raise SystemExit(
            "--compile needs layers that stay, and --shard gathers and frees them: leave one out"
        )


def check_likelihood(args: Steer) -> None:
    """Check rewards, constraints, factors, moments, penalty and budgets."""
    choices = args.choices
    if args.moment and (args.penalty is not None or args.beta_budget):
        raise SystemExit(
            "--moment moves the posterior away from a budget or a --penalty: leave one of them out"
        )
    if args.penalty is not None and not args.constraint:
        raise SystemExit(f"--penalty {args.penalty:g} softens --constraint, which is not given")
    if args.penalty is not None and args.sample is not None:
        raise SystemExit("--penalty is for SVI: samplers take hard constraints as they are")
    if args.penalty is not None and args.beta_budget:
        raise SystemExit(
            "--penalty is given with a budget, which is solved for hard constraints: leave one out"
        )
    if args.kl_budget is not None and args.min_reward is not None:
        raise SystemExit("--kl-budget and --min-reward are both given: beta can meet one of them")
    if args.beta_budget and (factor := next((c for c in choices if c.entry.takes_beta), None)):
        raise SystemExit(
            f"--factor {factor.text} depends on beta, which a budget solves for: give --beta"
        )


def check_training(args: Steer) -> None:
    """Check objective and guide of a fit."""
    objective = OBJECTIVES[args.objective]
    check_budget(args)
    is_hard = args.constraint and args.penalty is None
    if is_hard and not objective.supports_hard_constraints:
        names = [name for name, entry in OBJECTIVES.items() if entry.supports_hard_constraints]
        raise SystemExit(
            f"--objective {args.objective} descends a divergence that --constraint makes infinite: "
            f"choose one of {', '.join(names)}; or add a --penalty, which softens the constraint; "
            "or --sample"
        )
    try:
        objective(num_particles=args.particles)
    except (ValueError, AssertionError) as error:
        message = f"--particles {args.particles} with --objective {args.objective}: {error}"
        raise SystemExit(message) from error
    if not GUIDES[args.guide].trains:
        fix = "add --sample, whose proposal it can be"
        raise SystemExit(f"--guide {args.guide} has nothing to train: {fix}")
    from_file = args.prompts_file is not None or args.dataset is not None
    has_several = len(args.prompts) > 1 or from_file
    if objective.max_prompts == 1 and has_several and args.prompts_per_step != 1:
        fix = "add --prompts-per-step 1, or use wake-phi"
        raise SystemExit(f"--objective {args.objective} takes one prompt a step: {fix}")
    with blamed("--report-to"):
        check_trackers(args.report_to)


def check_budget(args: Steer) -> None:
    """Check that a budget of responses holds a step, and that a rate has a number of steps."""
    is_open = args.responses is not None or args.time is not None
    if is_open and args.learning_rate is not None:
        fix = "give --steps, or leave --learning-rate out for steps with a size in nats"
        raise SystemExit(f"--learning-rate falls to 0 at the last of a number of steps: {fix}")
    from_file = args.prompts_file is not None or args.dataset is not None
    num_prompts = 1 if from_file else len(args.prompts)
    per_step = args.particles * min(args.prompts_per_step or num_prompts, num_prompts)
    if args.responses is not None and args.responses < per_step:
        raise SystemExit(
            f"--responses {args.responses} is less than the {per_step} responses of one step: give "
            "more, or fewer --particles"
        )
