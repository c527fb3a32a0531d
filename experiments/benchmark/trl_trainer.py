"""Steps of TRL's `RLOOTrainer`, with the turns of the other steps in between."""

import tempfile
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from experiments.benchmark.steps import BETA, PROMPT, RATE, Benchmark, reward
from experiments.shared.cost import Seconds, Step, now, since, take_turns

TRL = "TRL, RLOOTrainer"


@dataclass
class Turns(TrainerCallback):
    """Timer of the trainer's steps, each from one `on_step_end` to the next."""

    steps: dict[str, Step]
    times: dict[str, list[Seconds]] = field(default_factory=dict)
    start: Seconds = (0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times = {name: [] for name in (*self.steps, TRL)}
        self.start = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times[TRL].append(since(self.start))
        for name, seconds in take_turns(self.steps, 1).items():
            self.times[name] += seconds
        self.steps = dict(reversed(self.steps.items()))
        self.start = now()


def take_turns_with_trl(
    steps: dict[str, Step], rounds: int, args: Benchmark
) -> dict[str, list[Seconds]]:
    """Time each step, and a step of TRL's trainer, in each round."""
    with tempfile.TemporaryDirectory() as folder:
        args.network().save_pretrained(folder)
        return time_trl(steps, rounds, args, PROMPT, args.tokenizer(), model=folder)


def time_trl(
    steps: dict[str, Step],
    rounds: int,
    args: Benchmark,
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    **job: Any,
) -> dict[str, list[Seconds]]:
    """Time steps of TRL's trainer, and other steps in between.

    Args:
        steps: the other steps, by name.
        rounds: number of steps of each.
        args: settings of the job.
        prompt: text of the prompt.
        tokenizer: the tokenizer, whose end ends a response.
        job: model and adapters, as `RLOOTrainer` takes them.
    """
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def trl_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return reward(torch.tensor(completion_ids)).tolist()

    turns = Turns(steps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's use of transformers
        job["args"] = RLOOConfig(output_dir=folder, max_steps=rounds, **settings(args))
        job["train_dataset"] = Dataset.from_dict({"prompt": [prompt] * rounds})
        job |= {"reward_funcs": trl_reward, "processing_class": tokenizer, "callbacks": [turns]}
        trainer = RLOOTrainer(**job)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    num_tokens = trainer.state.num_input_tokens_seen
    length = len(tokenizer(prompt)["input_ids"]) + args.tokens
    expected = rounds * args.sequences * length
    if num_tokens != expected:
        raise RuntimeError(f"TRL saw {num_tokens} tokens, expected {expected}: it did another job")
    return turns.times


def settings(args: Benchmark) -> dict[str, Any]:
    """Settings of TRL's trainer that make its step the same job."""
    size = args.sequences
    batch = {"per_device_train_batch_size": size, "num_generations": size, "num_iterations": 1}
    memory = {"gradient_accumulation_steps": 1, "activation_checkpointing": False}
    sampling = {"max_completion_length": args.tokens, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    objective = {"beta": BETA, "max_grad_norm": 1.0}
    adam = {"optim": "adamw_torch_fused", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    machine = {"bf16": False, "use_cpu": True, "seed": args.seed, "disable_tqdm": True}
    logs = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
    return {**batch, **memory, **sampling, **objective, **adam, **machine, **logs}
