"""Prompts of a run, from the command line, a text file or a data set; and the measured prompts."""

import random

from experiments.shared.refusals import blamed
from experiments.steer.arguments import Steer
from model import LanguageModel, Prompts, read_prompts
from model.common.texts import read_lines


def load_prompts(args: Steer, prior: LanguageModel) -> Prompts:
    """Read and encode the prompts; exit if a prompt is refused, with its place in the file."""
    if args.dataset is not None:
        with blamed("--dataset"):
            data = read_prompts(
                args.dataset,
                prompt_column=args.prompt_column,
                columns=args.dataset_columns,
                split=args.dataset_split,
                config=args.dataset_config,
                limit=args.limit,
            )
            prompts = data.encode(prior, system=args.system)
        lengths = prompts.mask.sum(1)
        columns = f", with columns {', '.join(prompts.columns)}" if prompts.columns else ""
        size = f"{int(lengths.min()):,} to {int(lengths.max()):,} tokens"
        print(f"data set {args.dataset}, {len(prompts):,} prompts of {size}{columns}")
        return prompts
    texts, option = list(args.prompts), "--prompts"
    if args.prompts_file is not None:
        option = f"--prompts-file {args.prompts_file}"
        with blamed("--prompts-file"):
            texts = [line for line in read_lines(args.prompts_file) if line.strip()]
        if not texts:
            raise SystemExit(f"{option} has no prompts: expected one on each line")
    with blamed(option):
        return prior.encode(texts, system=args.system)


def measured_prompts(args: Steer, prompts: Prompts) -> Prompts:
    """The prompts that are measured: all, or a random subset by the seed."""
    size = args.num_measured
    if size is None or size >= len(prompts):
        return prompts
    draws = random.Random(f"measured prompts of seed {args.seed}")
    return prompts[sorted(draws.sample(range(len(prompts)), size))]


def subset_note(measured: Prompts, prompts: Prompts) -> list[str]:
    """Sentence about a subset, for the report; none if all prompts are measured."""
    if len(measured) == len(prompts):
        return []
    size = f"{len(measured)} of {len(prompts):,} prompts"
    return [
        f"Measured on {size}, a random subset by the seed. Numbers are means over these prompts, "
        "and their standard errors are for these prompts alone."
    ]
