"""Guide of a run: its start, the prior or a student; its family; its shards."""

import pyro
import torch

from experiments.shared.refusals import FAULTS, blamed, one_line
from experiments.shared.training import build_guide
from experiments.steer.arguments import Steer
from guides import FineTuned, Guide
from guides.from_scratch import FromScratch
from guides.shards import shard
from inference import OBJECTIVES, Program, random_state
from model import LanguageModel, LikelihoodError, Prompts
from model.common.devices import named_device
from model.prior.named_priors import load_prior


def new_guide(args: Steer, target: Program, prior: LanguageModel, prompts: Prompts) -> Guide:
    """Build the guide; exit if the objective, on two responses to a prompt, cannot be computed."""
    start = load_start(args, prior)
    with random_state.isolated(args.seed):
        guide = build_guide(args.guide, args.guide_options, start, prompts)
    fresh = {"--student": args.student, "--checkpoint-activations": args.checkpoint_activations}
    if isinstance(guide, FromScratch) and (given := [name for name, x in fresh.items() if x]):
        problem = f"{given[0]} has no effect with --guide {args.guide}"
        raise SystemExit(f"{problem}, which has no layers of a language model: leave one out")
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
                entry = OBJECTIVES[args.objective]
                trial = entry(num_particles=max(2, entry.min_particles))
                trial.loss(target, guide, prompts[[0]])
            except LikelihoodError as error:  # names the reward or the factor itself
                raise SystemExit(one_line(error)) from error
    return guide


def load_start(args: Steer, prior: LanguageModel) -> LanguageModel:
    """Language model that the guide starts from: the prior, or the student."""
    if args.student is None:
        return prior
    fix = "A student has the teacher's tokenizer, with as many token ids"
    with blamed(f"--student {args.student}", FAULTS):
        student = load_prior(args.student, **args.loading)
        prior.check_same_responses("the student", student, fix)
    print_size(f"student {args.student}", student)
    return student


def shard_networks(args: Steer, guide: Guide, prior: LanguageModel) -> None:
    """Shard the guide, or guide and prior, on the device of the run."""
    device, other = named_device(args.device), prior if args.shard == "both" else None
    with blamed(f"--shard {args.shard}"):
        shard(guide, other, gather_draws=args.gather_draws, device=device)
    if args.shard == "guide":
        prior.to(device)


def print_size(name: str, language_model: LanguageModel) -> None:
    """Print the size of a language model, and its device."""
    size = sum(parameter.numel() for parameter in language_model.parameters())
    print(f"{name}, {size:,} parameters, on {language_model.device}")
