"""Trainers of TRL on the same world, each with the target that it is predicted to reach."""

import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback

from experiments.trainer_targets.trainers import RATE, Trainer
from experiments.trainer_targets.worlds import PROMPT, TOKENS, World, reward_of
from guides import Fixed
from model import LanguageModel

SHARPNESS = 10.0
"""Nats of a judge's preference per unit of reward: labels of a blunt judge are mostly noise."""
NO_SCALE: dict[str, Any] = {"scale_rewards": "none"}
K3: dict[str, Any] = {"use_bias_correction_kl": False}
"""The KL as GRPO was published: no importance ratio multiplies k3."""


def grouped(kind: str, world: World, steps: int, particles: int, seed: int, **own: Any) -> Tensor:
    """log q of `GRPOTrainer` or `RLOOTrainer`, a group of all responses in each step."""
    import trl
    from datasets import Dataset

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        pad = world.prior.pad_id
        rows = [[*ids, *[pad] * TOKENS][:TOKENS] for ids in completion_ids]
        return reward_of(torch.tensor(rows)).tolist()

    sampling = {"max_completion_length": TOKENS, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    group = {"num_generations": particles, "disable_dropout": True, "beta": world.model.beta}
    options = {**sampling, **group, **own, "per_device_train_batch_size": particles}
    data = Dataset.from_dict({"prompt": [PROMPT] * steps})
    make = partial(getattr(trl, f"{kind}Trainer"), reward_funcs=rewards)
    run = partial(_log_guide, getattr(trl, f"{kind}Config"), make, data, options)
    return run(world, steps, seed)


def preferred(world: World, steps: int, particles: int, seed: int) -> Tensor:
    """log q of `DPOTrainer`, on pairs of the prior's draws that a Bradley-Terry judge compared.

    At `max_length` no end follows a response of T tokens, as in the world.
    """
    import trl
    from datasets import Dataset

    num_pairs = steps * particles
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = world.prior(world.prompts).sample((2 * num_pairs,))[:, 0].view(2, num_pairs, -1)
        rewards = reward_of(pairs)
        is_first = torch.rand(num_pairs) < (SHARPNESS * (rewards[0] - rewards[1])).sigmoid()
    order = torch.stack([~is_first, is_first]).long()  # the chosen one, and the other
    sides = [pairs[order[i], torch.arange(num_pairs)] for i in (0, 1)]
    texts = [[f" {row[0]}" for row in world.prior.decode(side[:, None])] for side in sides]
    columns = {"prompt": [PROMPT] * num_pairs, "chosen": texts[0], "rejected": texts[1]}
    data = Dataset.from_dict(columns)
    beta = SHARPNESS * world.model.beta  # of the reward in units of the judge
    options = {"beta": beta, "max_length": TOKENS + 1, "disable_dropout": True}
    options["per_device_train_batch_size"] = particles
    return _log_guide(trl.DPOConfig, trl.DPOTrainer, data, options, world, steps, seed)


def _log_guide(
    config: Any, make: Any, data: Any, options: dict[str, Any], world: World, steps: int, seed: int
) -> Tensor:
    """Train a copy of the prior, and return log q of all responses, `[S, N]`, nats."""
    adam = {"learning_rate": RATE, "lr_scheduler_type": "cosine", "warmup_steps": steps // 20}
    machine = {"bf16": False, "use_cpu": True, "seed": seed, "disable_tqdm": True}
    logs = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world.prior.save_pretrained(Path(folder) / "prior")
        exact = {"max_steps": steps, "max_grad_norm": 1e9, "gradient_accumulation_steps": 1}
        args = config(output_dir=folder, **{**adam, **machine, **logs, **exact, **options})
        tokenizer = world.prior.tokenizer
        path = str(Path(folder) / "prior")
        trainer = make(model=path, args=args, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    network = trainer.model.to("cpu", torch.float32).eval()
    guide = Fixed(LanguageModel(network, tokenizer, max_new_tokens=TOKENS))
    return world.truth.log_guide(guide)


TRL = {
    "TRL RLOOTrainer": Trainer("posterior", 0.1, partial(grouped, "RLOO")),
    "TRL GRPOTrainer": Trainer("grpo-token-kl", 1.0, partial(grouped, "GRPO")),
    "TRL GRPOTrainer, k3": Trainer("grpo-token-k3", 0.5, partial(grouped, "GRPO", **K3)),
    "TRL GRPOTrainer, no scale": Trainer(
        "token-reverse-kl", 0.05, partial(grouped, "GRPO", **NO_SCALE)
    ),
    "TRL GRPOTrainer, no scale, k3": Trainer(
        "token-forward-kl", 0.05, partial(grouped, "GRPO", **NO_SCALE, **K3)
    ),
    "TRL DPOTrainer": Trainer("posterior", 0.1, preferred),
}
"""Trainers by the name of the class."""
