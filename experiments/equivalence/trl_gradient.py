"""Gradient that TRL's `RLOOTrainer` computes against ours, at TRL's responses and weights."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from experiments.equivalence.gradient import gradient_at
from experiments.shared.gradients import gradient_of, moved_guide, relative_error
from guides import FineTuned
from inference import LeaveOneOut_ELBO
from model import AlignmentModel, Prompts


class Recorder(TrainerCallback):
    """The gradient of the first step, just before the optimizer takes the step."""

    def __init__(self) -> None:
        self.gradient = torch.zeros(0)

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.gradient = gradient_of(model)


def trl_error(model: AlignmentModel, prompts: Prompts, num_samples: int) -> float:
    """Relative error of the gradient of `LeaveOneOut_ELBO` against the gradient of TRL's loss.

    The policy is a guide away from the prior, which is TRL's reference. Draws, rewards, KL,
    advantages and loss are TRL's, and ours are computed from the responses alone. TRL's loss is a
    mean over prompts in units of reward; the loss of the ELBO is a sum over prompts in nats.
    """
    guide = moved_guide(model.prior)
    response, by_trl = one_step(model, guide, prompts, num_samples)
    ours = gradient_at(model, guide, prompts, response, LeaveOneOut_ELBO(num_samples))
    return relative_error(by_trl * (len(prompts) / model.beta), ours)


def one_step(
    model: AlignmentModel, guide: FineTuned, prompts: Prompts, num_samples: int
) -> tuple[Tensor, Tensor]:
    """TRL's responses `[K, N, T]` in a step from the guide, and its gradient in one row."""
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    space, size = model.prior.space, num_samples * len(prompts)
    recorder, batch = Recorder(), {}

    def rewards(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rows = padded(completion_ids, space.pad_id, space.max_new_tokens)
        return model.reward(model.prior.encode(prompts), rows).tolist()

    sampling = {"max_completion_length": space.max_new_tokens, "top_k": 0, "top_p": 1.0}
    group = {"num_generations": num_samples, "per_device_train_batch_size": size, "max_steps": 1}
    exact = {"disable_dropout": True, "max_grad_norm": 1e9, "gradient_accumulation_steps": 1}
    machine = {"bf16": False, "use_cpu": True, "disable_tqdm": True, "temperature": 1.0}
    logs = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
    options: dict[str, Any] = {**sampling, **group, **exact, **machine, **logs}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "policy")
        guide.language_model.save_pretrained(path)
        job: dict[str, Any] = {"model": path, "processing_class": model.prior.tokenizer}
        job["args"] = RLOOConfig(output_dir=folder, beta=model.beta, **options)
        job["train_dataset"] = Dataset.from_dict({"prompt": prompts.texts})
        trainer = RLOOTrainer(reward_funcs=rewards, callbacks=[recorder], **job)
        trainer.remove_callback(PrinterCallback)
        trainer.ref_model.load_state_dict(model.prior.network.state_dict())
        compute_loss = trainer._compute_loss

        def recorded(network: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
            batch.update(inputs)
            return compute_loss(network, inputs)

        trainer._compute_loss = recorded
        trainer.train()
    return by_prompt(batch, prompts, space.pad_id, space.max_new_tokens), recorder.gradient


def by_prompt(batch: dict[str, Tensor], prompts: Prompts, pad_id: int, length: int) -> Tensor:
    """TRL's shuffled completions `[K N, T]`, by prompt, `[K, N, T]`."""
    completions = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    rows = padded(completions, pad_id, length)
    columns = []
    for own, is_own in zip(prompts.ids, prompts.mask, strict=True):
        text = own[is_own].tolist()
        of_prompt = [
            ids[mask.bool()].tolist() == text
            for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
        ]
        columns.append(rows[torch.tensor(of_prompt)])
    return torch.stack(columns, 1)


def padded(rows: list[list[int]], pad_id: int, length: int) -> Tensor:
    """Rows of token ids, padded to `[M, T]`."""
    return torch.tensor([[*row, *[pad_id] * length][:length] for row in rows])
