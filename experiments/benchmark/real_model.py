"""A step with SmolLM2-135M and LoRA in bfloat16: ours and TRL's, each alone in a process."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pyro
import torch

from experiments.benchmark.report import OURS, time_parts
from experiments.benchmark.steps import Benchmark, Ours
from experiments.benchmark.trl_trainer import TRL, time_trl
from experiments.shared.cost import forget_peak, peak_memory, ratio_of_means, take_turns
from experiments.shared.tables import cell, text_table
from experiments.shared.workers import run_all
from guides import LoRA
from model import LanguageModel
from model.prior.named_priors import load_prior

PROMPT, RANK = "The film was", 8
END = "<empty_output>"
"""End of a response: a token that the network never draws, so that all have all their tokens."""
AT_MOST = 0.38
"""Claimed upper limit of our CPU time, and of our memory, as a fraction of TRL's."""


class Job(NamedTuple):
    """One implementation, in a process of its own."""

    name: str
    args: Benchmark


class Cost(NamedTuple):
    """Cost of a step.

    Attributes:
        seconds: CPU seconds of each step.
        peak: peak of the resident memory during the steps, MB.
        parts: CPU seconds of the parts of our step.
    """

    seconds: list[float]
    peak: float
    parts: dict[str, float]


def report_real_model(args: Benchmark, *, with_trl: bool) -> str:
    """Measure for each number of tokens, and return the tables."""
    names = [OURS, TRL] if with_trl else [OURS]
    texts = []
    for tokens in args.smollm2:
        job = replace(args, sequences=32, tokens=tokens, rounds=args.smollm2_rounds, warm_up=1)
        costs = {}
        for name in names:  # a new process for each
            [costs[name]] = run_all(measure, [Job(name, job)], workers=2)
        texts.append(_table(tokens, costs))
    return "\n\n".join(texts)


def measure(job: Job) -> Cost:
    """Cost of the steps of one implementation in this process."""
    args = job.args
    torch.set_num_threads(args.threads)
    pyro.set_rng_seed(args.seed)
    prior = new_prior(args.tokens)
    rounds = args.warm_up + args.rounds
    parts: dict[str, float] = {}
    if job.name == TRL:
        forget_peak()
        times = time_trl_lora(prior, rounds, args)
        peak = peak_memory()
    else:
        step = Ours(prior, LoRA(prior, rank=RANK), PROMPT, args)
        forget_peak()
        times = [cpu for cpu, _ in take_turns({OURS: step}, rounds)[OURS]]
        peak = peak_memory()
        parts = time_parts({OURS: step}, 1)[OURS]
    return Cost(times[args.warm_up :], peak, parts)


def new_prior(tokens: int) -> LanguageModel:
    """SmolLM2-135M whose responses have all their tokens."""
    prior = load_prior("smollm2", max_new_tokens=tokens, dtype="bfloat16")
    end_id = prior.tokenizer.convert_tokens_to_ids(END)
    return LanguageModel(
        prior.network, prior.tokenizer, max_new_tokens=tokens, end_ids=[end_id], pad_id=end_id
    )


def time_trl_lora(prior: LanguageModel, rounds: int, args: Benchmark) -> list[float]:
    """CPU seconds of the steps of TRL's trainer with the same network and adapters."""
    from peft import LoraConfig

    prior.tokenizer.eos_token = prior.tokenizer.pad_token = END
    prior.network.generation_config.eos_token_id = prior.end_ids[0]
    adapters = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    job: dict[str, Any] = {"model": prior.network, "peft_config": adapters}
    times = time_trl({}, rounds, args, PROMPT, prior.tokenizer, **job)
    return [cpu for cpu, _ in times[TRL]]


def _table(tokens: int, costs: Mapping[str, Cost]) -> str:
    """Cost of a step, ours as a fraction of TRL's, and the parts of ours."""
    rows: dict[str, list[str] | str] = {}
    for name, cost in costs.items():
        fractions = ["-", "-", "-"]
        if name == TRL:
            fractions = [cell(*ratio_of_means(costs[OURS].seconds, cost.seconds))]
            fractions += [f"{costs[OURS].peak / cost.peak:.2f}", f"<= {AT_MOST:.2f}"]
        rows[name] = [f"{statistics.fmean(cost.seconds):.2f}", f"{cost.peak:.0f}", *fractions]
    total = sum(costs[OURS].parts.values())
    parts = {
        part: [f"{seconds:.2f} {seconds / total:4.0%}"]
        for part, seconds in costs[OURS].parts.items()
    }
    columns = ["CPU, s", "peak, MB", "ours / this, CPU", "peak", "claimed"]
    return (
        f"SmolLM2-135M, LoRA of rank {RANK}, bfloat16: 32 responses of {tokens} tokens\n"
        f"Means of {len(costs[OURS].seconds)} steps; of the ratio ± its standard error\n"
        f"{text_table(columns, rows)}\n\n{text_table([OURS], parts)}"
    )
