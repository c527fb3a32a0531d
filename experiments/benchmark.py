"""Benchmark: what a gradient step costs as a Pyro program, in a loop written by hand, and in TRL's trainer.

Question: is the Pyro program slower than what it replaces?
Answer, printed: seconds of CPU and of wall time a step; ours as a fraction of each of the others, claimed to be at most 1.05 of
a loop written by hand and at most 0.65 of TRL's `RLOOTrainer`; and where the time goes, ours beside the loop's.

The job is the same for all three. A GPT-2 of 2 layers and width 64 over 128 words, with random weights, is prior and initial
guide. A step draws 64 responses of 16 tokens to one prompt of 4, scores them under guide and prior, and takes one Adam step on
the leave-one-out gradient, its norm at most 1, on one thread. All look for the end of a response, and none finds it: the
weights make its probability e^-100, so that every response has all its tokens.

The differences are part of the answer. Ours reads the prompt once for all responses, also when it scores them, draws a token
from one random number, and runs Pyro. The loop reads the prompt once for the decode, draws with `torch.multinomial`, and scores
prompt and response in one pass. TRL scores its responses under the guide once more before the step, and keeps metrics.

A round is a step of each, so that what else the machine does falls on all alike, and ratios are medians over rounds. TRL's
trainer owns its loop: the others take their turns in its `on_step_end`.

    make bench
    python -m experiments.benchmark --rounds 50
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging

from experiments.shared.argument_types import Count, Positive, Rate, Seed, Threads, count, multiple
from experiments.shared.command_line import Arguments, run_script
from experiments.shared.worlds import numbered_words
from guides import FineTuned
from inference import FusedOptimizer, LeaveOneOut_ELBO
from model import AlignmentModel, LanguageModel, ResponseDistribution, TokenReward

OURS, BY_HAND, TRL = "ours, SVI.step", "by hand, torch", "TRL, RLOOTrainer"
AT_MOST = {BY_HAND: 1.05, TRL: 0.65}
END_ID = 0

Step = Callable[[], Any]
Seconds = tuple[float, float]
"""Of CPU and of wall time."""


@dataclass(frozen=True)
class Benchmark(Arguments):
    """Time a gradient step: ours, by hand, TRL's."""

    rounds: Count = 200
    """Steps timed of each."""
    warm_up: Annotated[int, count(0)] = 20
    """Steps of each before those."""
    sequences: Annotated[int, count(2, 10_000, "the baseline of one is the mean of the others")] = (
        64
    )
    """Responses a step."""
    tokens: Annotated[int, count(1, 10_000)] = 16
    """Tokens of a response."""
    prompt_tokens: Annotated[int, count(1, 10_000)] = 4
    """Tokens of the prompt."""
    vocabulary: Annotated[int, count(2, 100_000)] = 128
    """Words, the end among them."""
    layers: Annotated[int, count(1, 100)] = 2
    """Transformer blocks."""
    width: Annotated[int, count(16, 8192), multiple(16)] = 64
    """Width of the residual stream, a multiple of 16, the width of a head."""
    beta: Positive = 0.1
    """Reward per nat."""
    learning_rate: Rate = 1e-5
    """Of Adam; so low that the job stays the same from step to step."""
    threads: Threads = 1
    """CPU threads."""
    seed: Seed = 0
    """Seed of the weights and of the samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt_tokens < self.vocabulary:
            raise SystemExit(
                f"--prompt-tokens is {self.prompt_tokens}, expected 1 to {self.vocabulary - 1} with --vocabulary "
                f"{self.vocabulary}, one for each word"
            )


def make_tokenizer(args: Benchmark) -> PreTrainedTokenizerFast:
    return numbered_words(
        args.vocabulary, eos_token="<end>", pad_token="<end>", padding_side="left"
    )


def make_network(args: Benchmark) -> GPT2LMHeadModel:
    """GPT-2 with random weights, the same at every call, whose logit of the end is about -100 and of any word about 0."""
    config = GPT2Config(
        vocab_size=args.vocabulary,
        n_positions=args.prompt_tokens + args.tokens,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.width // 16,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=END_ID,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(args.seed)
        network = GPT2LMHeadModel(config).eval()
        network.transformer.ln_f.bias[0] = 10.0
        network.transformer.wte.weight[END_ID, 0] = -10.0
    return network


def make_prompt(args: Benchmark) -> str:
    return " ".join(f"w{i}" for i in range(1, args.prompt_tokens + 1))


def reward(response: Tensor) -> Tensor:
    """Share of even token ids, `[..., T]` -> `[...]`."""
    return (response % 2 == 0).float().mean(-1)


class Ours:
    """The step as this project writes it: model, guide, objective, optimiser."""

    def __init__(self, args: Benchmark) -> None:
        prior = LanguageModel(make_network(args), make_tokenizer(args), max_new_tokens=args.tokens)
        model = AlignmentModel(
            prior, TokenReward(lambda response, _: reward(response), prior), beta=args.beta
        )
        self.guide = FineTuned(prior)
        optimizer = FusedOptimizer(torch.optim.Adam, {"lr": args.learning_rate}, clip_norm=1.0)
        self.svi = SVI(model, self.guide, optimizer, LeaveOneOut_ELBO(num_particles=args.sequences))
        self.prompts = prior.encode([make_prompt(args)])

    def __call__(self) -> float:
        return self.svi.step(self.prompts)


class ByHand:
    """The same step with torch and transformers alone."""

    def __init__(self, args: Benchmark) -> None:
        self.args = args
        self.guide, self.prior = make_network(args), make_network(args).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.guide.parameters(), lr=args.learning_rate, fused=True
        )
        ids = make_tokenizer(args)(make_prompt(args), return_tensors="pt")["input_ids"]
        self.prompt = ids.expand(args.sequences, -1)

    def __call__(self) -> float:
        """One step. Returns the estimate of -ELBO, nats."""
        response = self.sample()
        log_guide = self.log_prob(self.guide, response)
        with torch.no_grad():
            log_weight = (
                self.log_prob(self.prior, response)
                + reward(response).double() / self.args.beta
                - log_guide
            )
            others = (log_weight.sum() - log_weight) / (len(log_weight) - 1)
        loss = -((log_weight - others) * log_guide).mean()
        loss.backward()
        self.update()
        return -log_weight.mean().item()

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Responses of the guide, `[K, T]`, by a decode with a cache."""
        tokens: list[Tensor] = []
        ended = torch.zeros(self.args.sequences, dtype=torch.bool)
        out = self.guide(
            self.prompt[:1], use_cache=True, logits_to_keep=1
        )  # the prompt once, for all
        logits, cache = out.logits.expand(self.args.sequences, -1, -1), out.past_key_values
        cache.batch_repeat_interleave(self.args.sequences)
        while True:
            token = (
                torch.multinomial(logits[:, -1].softmax(-1), 1)
                .squeeze(1)
                .masked_fill(ended, END_ID)
            )
            tokens.append(token)
            ended |= token == END_ID
            if len(tokens) == self.args.tokens or ended.all():
                break
            logits = self.guide(token[:, None], past_key_values=cache, use_cache=True).logits
        return torch.stack(tokens, 1)

    def log_prob(self, network: GPT2LMHeadModel, response: Tensor) -> Tensor:
        """log p(response), `[K, T]` -> `[K]`, nats, in one parallel pass."""
        ids = torch.cat([self.prompt, response[:, :-1]], 1)
        logits = network(ids, use_cache=False, logits_to_keep=response.shape[1]).logits
        nats = cross_entropy(logits.flatten(0, 1), response.flatten(), reduction="none").view(
            response.shape
        )
        ends = (response == END_ID).int()
        return -nats.masked_fill(ends.cumsum(1) > ends, 0.0).sum(1)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.guide.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def timed(step: Step) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def take_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each step in each round. Who begins alternates."""
    times: dict[str, list[Seconds]] = {name: [] for name in steps}
    turns = list(steps.items())
    for _ in range(rounds):
        for name, step in turns:
            times[name].append(timed(step))
        turns.reverse()
    return times


@dataclass
class Turns(TrainerCallback):
    """Times the trainer's steps, and takes the turns of the other steps in between.

    A step of the trainer is all it does from one `on_step_end` to the next.
    """

    steps: dict[str, Step]
    times: dict[str, list[Seconds]] = field(default_factory=dict)
    began: Seconds = (0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times = {name: [] for name in (*self.steps, TRL)}
        self.began = time.process_time(), time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.process_time(), time.perf_counter()
        self.times[TRL].append((now[0] - self.began[0], now[1] - self.began[1]))
        for name, seconds in take_turns(self.steps, 1).items():
            self.times[name] += seconds
        self.steps = dict(reversed(self.steps.items()))
        self.began = time.process_time(), time.perf_counter()


def take_turns_with_trl(
    steps: dict[str, Step], rounds: int, args: Benchmark
) -> dict[str, list[Seconds]]:
    """As `take_turns`, with a step of TRL's trainer in each round."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def trl_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return reward(torch.tensor(completion_ids)).tolist()

    turns = Turns(steps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's use of transformers
        make_network(args).save_pretrained(folder)
        config = RLOOConfig(
            output_dir=folder,
            max_steps=rounds,
            per_device_train_batch_size=args.sequences,
            num_generations=args.sequences,
            max_completion_length=args.tokens,
            num_iterations=1,
            gradient_accumulation_steps=1,
            activation_checkpointing=False,
            beta=args.beta,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=False,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
        )
        trainer = RLOOTrainer(
            model=folder,
            reward_funcs=trl_reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [make_prompt(args)] * rounds}),
            processing_class=make_tokenizer(args),
            callbacks=[turns],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    expected = rounds * args.sequences * (args.prompt_tokens + args.tokens)
    if trainer.state.num_input_tokens_seen != expected:
        raise RuntimeError(
            f"TRL saw {trainer.state.num_input_tokens_seen} tokens, expected {expected}: it did another job"
        )
    return turns.times


@contextmanager
def stopwatch(
    owner: Any, name: str, label: Callable[[Any], str], seconds: dict[str, float]
) -> Iterator[None]:
    """Within it, the CPU seconds of each call of `owner.name` are added to `seconds`, under the label that its result gets."""
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = original(*args, **kwargs)
        seconds[label(result)] = seconds.get(label(result), 0.0) + time.process_time() - began
        return result

    setattr(owner, name, watched)
    try:
        yield
    finally:
        setattr(owner, name, original)


def where_the_time_goes(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of the parts of each step, medians over rounds of their own."""

    def whose(log_prob: Tensor) -> str:
        return "scoring, guide" if log_prob.requires_grad else "scoring, prior"

    calls: list[tuple[Any, str, Callable[[Any], str]]] = [
        (ResponseDistribution, "sample", lambda _: "sampling"),
        (ByHand, "sample", lambda _: "sampling"),
        (ResponseDistribution, "log_prob", whose),
        (ByHand, "log_prob", whose),
        (Tensor, "backward", lambda _: "backward"),
        (FusedOptimizer, "__call__", lambda _: "optimiser"),
        (ByHand, "update", lambda _: "optimiser"),
    ]
    records: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds: dict[str, float] = {}
            with ExitStack() as stack:
                for owner, method, label in calls:
                    stack.enter_context(stopwatch(owner, method, label, seconds))
                total, _ = timed(step)
            records[name].append(seconds | {"Pyro and all else": total - sum(seconds.values())})
    parts = (
        "sampling",
        "scoring, guide",
        "scoring, prior",
        "backward",
        "optimiser",
        "Pyro and all else",
    )
    return {
        name: {part: statistics.median(r[part] for r in records[name]) for part in parts}
        for name in steps
    }


def ratio(ours: list[Seconds], theirs: list[Seconds], clock: int) -> float:
    """Median over rounds of our seconds by theirs; clock 0 is CPU, 1 is wall."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(ours, theirs, strict=True))


def report(
    times: dict[str, list[Seconds]], parts: dict[str, dict[str, float]], args: Benchmark
) -> str:
    """The two tables."""
    lines = [
        f"GPT-2 of {args.layers} layers, width {args.width}, {args.vocabulary} tokens; {args.sequences} sequences of "
        f"{args.tokens} tokens",
        f"after a prompt of {args.prompt_tokens}; one gradient step; threads: {torch.get_num_threads()}.",
        f"Seconds a step, medians of {args.rounds} rounds.",
        "",
        f"{'':18}{'CPU':>9}{'wall':>9}   ours as a fraction of it: {'CPU':>6}{'wall':>8}{'claimed':>10}",
    ]
    for name, seconds in times.items():
        cpu, wall = (statistics.median(s[clock] for s in seconds) for clock in (0, 1))
        line = f"{name:18}{cpu:9.4f}{wall:9.4f}"
        if name in AT_MOST:
            cpu, wall = (ratio(times[OURS], seconds, clock) for clock in (0, 1))
            line += f"{'':29}{cpu:6.2f}{wall:8.2f}{f'<= {AT_MOST[name]:.2f}':>10}"
        lines.append(line)
    if TRL not in times:
        lines.append(f"{TRL:18} is not installed: `make bench` installs it and runs this again")
    lines += ["", f"{'where the time goes, CPU':26}" + "".join(f"{name:>18}" for name in parts)]
    total = {name: sum(seconds.values()) for name, seconds in parts.items()}
    for part in parts[OURS]:
        cells = (
            f"{parts[name][part]:10.4f}{parts[name][part] / total[name]:8.0%}" for name in parts
        )
        lines.append(f"  {part:24}" + "".join(cells))
    return "\n".join(lines)


def run(args: Benchmark, *, with_trl: bool) -> str:
    """Measure, and return the report. Pyro's parameter store stays as it was."""
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        steps: dict[str, Step] = {OURS: Ours(args), BY_HAND: ByHand(args)}
        rounds = args.warm_up + args.rounds
        times = take_turns_with_trl(steps, rounds, args) if with_trl else take_turns(steps, rounds)
        timed_rounds = {name: seconds[args.warm_up :] for name, seconds in times.items()}
        return report(timed_rounds, where_the_time_goes(steps, max(1, args.rounds // 4)), args)


def main(args: Benchmark) -> None:
    torch.set_num_threads(args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(run(args, with_trl=find_spec("trl") is not None))


if __name__ == "__main__":
    run_script(main, Benchmark)
