"""Inference at decoding time: a sampler in place of a fit, its draws and what it says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.steer.judge import Judge
from experiments.steer.report import Sample, samples_text
from inference import Posterior
from model import AlignmentModel, Prompts


@dataclass(frozen=True)
class Decoding:
    """What a sampler returned.

    Attributes:
        title: one line that says what was done.
        model: prior and evidence.
        prompts: N prompts.
        posterior: the weighted draws.
        prior_response: `[M, N, T]`, draws of the prior, to compare with.
        seconds: wall time of the sampler.
    """

    title: str
    model: AlignmentModel
    prompts: Prompts
    posterior: Posterior
    prior_response: Tensor
    seconds: float

    def text(self) -> str:
        """For a terminal: samples, then a line for each number, averaged over prompts."""
        judge = Judge(self.model)
        before = judge.scores(self.prompts, self.prior_response)[0].mean().item()
        reward, _ = judge.scores(self.prompts, self.posterior.response)
        rows = {
            "E[r] of the prior": before,
            "E[r] of the posterior": self.posterior.mean(reward).mean().item(),
        }
        responses = {"prior": self.prior_response, "posterior": self.posterior.response}
        phi = {whose: judge.phi(self.prompts, response) for whose, response in responses.items()}
        for name in judge.features:
            rows[f"E[{name}] of the prior"] = phi["prior"][name].mean().item()
            rows[f"E[{name}] of the posterior"] = (
                self.posterior.mean(phi["posterior"][name]).mean().item()
            )
        if self.posterior.log_z is not None:
            rows["log Z, nats"] = self.posterior.log_z.mean().item()
        rows |= {
            name: value.double().mean().item() for name, value in self.posterior.diagnostics.items()
        }
        width = max(map(len, rows))
        samples = {
            "From the prior": with_rewards(self.model, self.prompts, self.prior_response[:2]),
            "From the posterior": with_rewards(
                self.model, self.prompts, self.posterior.resample(4)
            ),
        }
        table = [f"{name.replace('_', ' '):{width}}  {value:.4g}" for name, value in rows.items()]
        return "\n".join(
            [
                "",
                self.title,
                "",
                *samples_text(samples),
                *table,
                "",
                f"{self.seconds:.1f} s, nothing was trained.",
            ]
        )

    def write(self, path: Path, num_draws: int = 256) -> None:
        """JSON lines of prompt, text and reward, `num_draws` for each prompt, drawn in proportion to their weights."""
        drawn = with_rewards(self.model, self.prompts, self.posterior.resample(num_draws))
        prompts = [text for text in self.prompts.texts for _ in range(num_draws)]
        lines = [
            json.dumps({"prompt": prompt, "text": text, "reward": reward})
            for prompt, (text, reward) in zip(prompts, drawn, strict=True)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def with_rewards(model: AlignmentModel, prompts: Prompts, response: Tensor) -> list[Sample]:
    """Whole texts with their rewards, -inf if forbidden, for responses `[M, N, T]`, prompt by prompt."""
    texts = model.prior.decode(response, prompts)
    reward, forbidden = Judge(model).scores(prompts, response)
    rewards = reward.masked_fill(forbidden, -torch.inf).tolist()
    return [(texts[m][n], rewards[m][n]) for n in range(len(prompts)) for m in range(len(response))]
