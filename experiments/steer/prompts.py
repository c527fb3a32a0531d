"""Prompts of a run: from the command line, a text file or a data set; all, and those measured."""

import random
from typing import Any, NamedTuple

from experiments.shared.refusals import blamed
from experiments.steer.arguments import Steer
from model import LanguageModel, Prompts, read_prompts
from model.common.texts import read_lines


class RunPrompts(NamedTuple):
    """Prompts of a run.

    Attributes:
        every: prompts to train on.
        measured: prompts that are measured, a random subset by the seed, or all.
        notes: sentences for the report, about prompts that are left out or not measured.
    """

    every: Prompts
    measured: Prompts
    notes: list[str]


def load_prompts(args: Steer, prior: LanguageModel) -> RunPrompts:
    """Read and encode the prompts; exit if a prompt is refused, with its place in the file."""
    notes: list[str] = []
    if args.dataset is None:
        every = written_prompts(args, prior)
    else:
        with blamed("--dataset"):
            every, notes = read_dataset(args.dataset, args, prior)
    notes += chat_notes(every, prior)
    measured = measured_prompts(args, every)
    if len(measured) < len(every):
        notes.append(
            f"Measured on {len(measured)} of {len(every):,} prompts, a random subset by the seed. "
            "Numbers are means over these prompts, with standard errors for these prompts alone."
        )
    return RunPrompts(every, measured, notes)


def written_prompts(args: Steer, prior: LanguageModel) -> Prompts:
    """Prompts of `--prompts` or `--prompts-file`."""
    texts, option = list(args.prompts), "--prompts"
    if args.prompts_file is not None:
        option = f"--prompts-file {args.prompts_file}"
        with blamed("--prompts-file"):
            texts = [line for line in read_lines(args.prompts_file) if line.strip()]
        if not texts:
            raise SystemExit(f"{option} has no prompts: expected one on each line")
    with blamed(option):
        return prior.encode(texts, system=args.system)


def read_dataset(source: str, args: Steer, prior: LanguageModel) -> tuple[Prompts, list[str]]:
    """Prompts of `--dataset`, and a sentence about prompts that are left out."""
    part: dict[str, Any] = {"split": args.dataset_split, "config": args.dataset_config}
    part |= {"prompt_column": args.prompt_column, "columns": args.dataset_columns}
    data = read_prompts(source, limit=args.limit, **part)
    num_prompts, notes = len(data), []
    if args.max_prompt_tokens is not None:
        data = data.without_long(prior, args.max_prompt_tokens, system=args.system)
        share = f"{num_prompts - len(data):,} of {num_prompts:,} prompts"
        notes = [f"Left out: {share}, of more than {args.max_prompt_tokens:,} tokens."]
    prompts = data.encode(prior, system=args.system)
    lengths = prompts.mask.sum(1)
    columns = f", with columns {', '.join(prompts.columns)}" if prompts.columns else ""
    number = f"{len(prompts):,} prompt{'s' * (len(prompts) > 1)}"
    size = f"{int(lengths.min()):,} to {int(lengths.max()):,} tokens"
    print(f"data set {source}, {number} of {size}{columns}")
    return prompts, notes


def chat_notes(prompts: Prompts, prior: LanguageModel) -> list[str]:
    """Sentences about prompts that a chat model reads, perhaps otherwise than meant."""
    chats = [chat for chat in prompts.messages if chat is not None]
    template, notes = prior.tokenizer.chat_template, []
    if answered := sum(chat[-1]["role"] == "assistant" for chat in chats):
        notes.append(
            f"{answered:,} of {len(prompts):,} chats end with a message of the assistant, which "
            "responses continue: leave it out if the response is to answer the user."
        )
    if template and (num_texts := len(prompts) - len(chats)):
        some = f"{num_texts:,} of {len(prompts):,}" if chats else "The"
        notes.append(
            f"{some} prompts are texts, read without the chat template of the prior: set --system, "
            "or write messages in a --dataset, for chats."
        )
    if chats and "strftime_now" in str(template):
        notes.append(
            "The chat template of the prior reads the date: prompts of another day may differ, and "
            "a run is then not resumed. A column chat_template_kwargs sets a date, if the template "
            "has such an option."
        )
    return notes


def measured_prompts(args: Steer, prompts: Prompts) -> Prompts:
    """All prompts, or a random subset by the seed if there are more than `num_measured`."""
    size = args.num_measured
    if size is None or size >= len(prompts):
        return prompts
    draws = random.Random(f"measured prompts of seed {args.seed}")
    return prompts[sorted(draws.sample(range(len(prompts)), size))]
