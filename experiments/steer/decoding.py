"""Inference at decoding time, `--sample`: a sampler instead of a fit."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.refusals import blamed
from experiments.shared.run_folder import RunFolder
from experiments.steer.arguments import Steer
from experiments.steer.expectations import observe
from experiments.steer.proposal import read_proposal
from experiments.steer.report import samples_text, scored_texts
from inference import SAMPLERS, Posterior, random_state, response_distribution
from model import AlignmentModel, Prompts


@dataclass(frozen=True)
class Decoding:
    """Result of a sampler.

    Attributes:
        title: one line.
        model: prior and likelihood.
        prompts: N prompts.
        posterior: the weighted responses.
        prior_response: `[M, N, T]`, draws of the prior for comparison.
        seconds: wall time of the sampler.
    """

    title: str
    model: AlignmentModel
    prompts: Prompts
    posterior: Posterior
    prior_response: Tensor
    seconds: float

    def numbers(self) -> dict[str, float]:
        """Expectations, log Z in nats and diagnostics, averaged over prompts."""
        prior = observe(self.model, self.prompts, self.prior_response)
        posterior = observe(self.model, self.prompts, self.posterior.response)
        pairs = {"r": (prior.reward, posterior.reward)}
        for name, phi in prior.features.items():
            pairs[name] = (phi, posterior.features[name])
        numbers = {}
        for name, (of_prior, of_posterior) in pairs.items():
            mean = self.posterior.mean(of_posterior).mean()
            numbers[f"E[{name}] of the prior"] = of_prior.mean().item()
            numbers[f"E[{name}] of the posterior"] = mean.item()
        if self.posterior.log_z is not None:
            numbers["log Z, nats"] = self.posterior.log_z.mean().item()
        for name, value in self.posterior.diagnostics.items():
            numbers[name.replace("_", " ")] = value.double().mean().item()
        return numbers

    def text(self) -> str:
        """Report for the terminal: samples, then the numbers."""
        prior, posterior = self.prior_response[:2], self.posterior.resample(4)
        samples = {
            "From the prior": scored_texts(self.model, self.prompts, prior),
            "From the posterior": scored_texts(self.model, self.prompts, posterior),
        }
        numbers = self.numbers()
        width = max(map(len, numbers))
        lines = [f"{name:{width}}  {value:.4g}" for name, value in numbers.items()]
        end = f"{self.seconds:.1f} s, nothing was trained."
        return "\n".join(["", self.title, "", *samples_text(samples), *lines, "", end])

    def write(self, path: Path, num_draws: int = 256) -> None:
        """Write JSON lines of prompt, text and reward.

        Args:
            path: file.
            num_draws: number of lines for each prompt, drawn in proportion to the weights.
        """
        drawn = scored_texts(self.model, self.prompts, self.posterior.resample(num_draws))
        prompts = [text for text in self.prompts.texts for _ in range(num_draws)]
        with path.open("w", encoding="utf-8") as file:
            for prompt, (text, reward) in zip(prompts, drawn, strict=True):
                record = {"prompt": prompt, "text": text, "reward": reward}
                file.write(json.dumps(record) + "\n")


def sample_posterior(
    args: Steer, model: AlignmentModel, prompts: Prompts, folder: RunFolder
) -> None:
    """Run the sampler `--sample`, print the numbers, and write the draws."""
    assert args.sample is not None
    proposal = read_proposal(args, model.prior, prompts)
    origin = args.proposal or ("the prior" if proposal is None else args.guide)
    title = f"{args.prior} under {args.target_name}: {args.sample}, {args.budget} responses"
    with random_state.isolated(args.seed):
        start = time.perf_counter()
        with blamed(f"--sample {args.sample}"):
            sampler = SAMPLERS[args.sample]
            posterior = sampler(model, prompts, guide=proposal, num_samples=args.budget)
        seconds = time.perf_counter() - start
        prior_response = response_distribution(model, prompts).sample(torch.Size([args.samples]))
        decoding = Decoding(
            f"{title} from {origin}", model, prompts, posterior, prior_response, seconds
        )
        print(decoding.text())
        decoding.write(folder.path / "draws.jsonl")
    print(f"\nDraws in {folder.path / 'draws.jsonl'}.")
