"""Inference at decoding time, `--sample`: a sampler instead of a fit, and its `--proposal`."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.run_folder import RunFolder
from experiments.shared.tables import cell
from experiments.shared.training import build_guide
from experiments.steer.arguments import Steer
from experiments.steer.expectations import chunk, mean_of_draws, observe, scope_of
from experiments.steer.posterior import noise_warnings
from experiments.steer.report import MARK, ONE_VALUE, samples_text, scored_texts
from guides import GUIDES, Fixed, Guide, saved
from guides.guide import OtherGuideError
from guides.saved import GUIDE_FILE
from inference import SAMPLERS, Posterior, random_state
from inference.samplers.proposal import draw_chunks
from model import AlignmentModel, LanguageModel, Prompts
from model.common import ranks
from model.common.files import DamagedFileError
from model.networks.source import PretrainedError
from model.prior.named_priors import load_prior


def numbers_of(
    model: AlignmentModel,
    prompts: Prompts,
    posterior: Posterior,
    prior_response: Tensor,
    target: str = "posterior",
) -> dict[str, str]:
    """Expectations under prior and target, log Z in nats, diagnostics; means over prompts.

    Expectations have their standard errors, and a mark if the draws to a prompt have one value.
    """
    prior = observe(model, prompts, prior_response)
    weighted = observe(model, prompts, posterior.response)
    pairs = {f"r{scope_of(prior.reward)}": (prior.reward, weighted.reward)}
    pairs |= {name: (phi, weighted.features[name]) for name, phi in prior.features.items()}
    numbers = {}
    for name, (of_prior, of_posterior) in pairs.items():
        # NaN where the reward or the feature does not apply
        applies = ~of_prior.isnan().all(0)
        zeros = of_posterior.nan_to_num(0.0, neginf=-torch.inf)
        means = {"prior": mean_of_draws(of_prior, applies)}
        means[target] = posterior.estimate(zeros, applies)
        for origin, mean in means.items():
            is_constant = mean.is_constant and not (origin == target and posterior.exact)
            numbers[f"E[{name}] of the {origin}"] = cell(*mean) + MARK * is_constant
    if posterior.log_z is not None:
        numbers["log Z, nats"] = f"{posterior.log_z.mean().item():.4g}"
    for name, value in posterior.diagnostics.items():
        numbers[name.replace("_", " ")] = f"{value.double().mean().item():.4g}"
    return numbers


def write_draws(
    path: Path, model: AlignmentModel, prompts: Prompts, posterior: Posterior, num_draws: int = 256
) -> None:
    """Write JSON lines of prompt, text and reward, draws in proportion to the weights.

    The reward of a prompt to which none applies is null.
    """
    drawn = scored_texts(model, prompts, posterior.resample(num_draws))
    repeated = [text for text in prompts.texts for _ in range(num_draws)]
    with path.open("w", encoding="utf-8") as file:
        for prompt, (text, reward) in zip(repeated, drawn, strict=True):
            record = {"prompt": prompt, "text": text, "reward": reward}
            if math.isnan(reward):
                record["reward"] = None
            print(json.dumps(record), file=file)


def sample_posterior(
    args: Steer, model: AlignmentModel, prompts: Prompts, folder: RunFolder
) -> None:
    """Run the sampler `--sample`, print the numbers, and write the draws."""
    assert args.sample is not None
    proposal = read_proposal(args, model.prior, prompts)
    origin = args.proposal or ("the prior" if proposal is None else args.guide)
    title = f"{args.prior} under {args.target_name}: {args.sample}, {args.budget} responses"
    with random_state.isolated(args.seed), random_state.measuring():  # unlike the proposal's fit
        start = time.perf_counter()
        with blamed(f"--sample {args.sample}"):
            sampler = SAMPLERS[args.sample]
            posterior = sampler(model, prompts, guide=proposal, num_samples=args.budget)
        seconds = time.perf_counter() - start
        draws = draw_chunks(model, None, prompts, args.samples, chunk=chunk(prompts))
        prior_response = torch.cat(list(draws))
        samples = {
            "From the prior": scored_texts(model, prompts, prior_response[:2]),
            f"From the {sampler.target}": scored_texts(model, prompts, posterior.resample(4)),
        }
        numbers = numbers_of(model, prompts, posterior, prior_response, sampler.target)
        if ranks.is_first():
            noise_warnings(model, prompts, prior_response)
            with ranks.alone():
                write_draws(folder.path / "draws.jsonl", model, prompts, posterior)
    width = max(map(len, numbers))
    lines = [f"{name:{width}}  {value}" for name, value in numbers.items()]
    if any(value.endswith(MARK) for value in numbers.values()):
        lines.append(f"{MARK.strip()} {ONE_VALUE}.")
    for warning in replace(posterior, origin=str(origin)).warnings:
        lines.append(f"{MARK.strip()} {warning}: the numbers of the posterior may be far off.")
    print("", f"{title} from {origin}", "", *samples_text(samples), *lines, sep="\n")
    print(f"\n{seconds:.1f} s, nothing was trained.\n\nDraws in {folder.path / 'draws.jsonl'}.")


def read_proposal(args: Steer, prior: LanguageModel, prompts: Prompts) -> Guide | None:
    """Read `--proposal`; by default `--guide` if it needs no training, else None for the prior."""
    if args.proposal is None:
        if GUIDES[args.guide].trains:
            return None
        return build_guide(args.guide, args.guide_options, prior, prompts)
    with blamed(f"--proposal {args.proposal}", FAULTS):
        if (args.proposal / GUIDE_FILE).is_file():
            return load_guide(args.proposal, prior)
        return Fixed(load_prior(str(args.proposal), **args.loading))


def load_guide(folder: Path, prior: LanguageModel) -> Guide:
    """Load a guide that `save_guide` wrote; exit if it is damaged or of another prior."""
    try:
        return saved.load_guide(folder, prior)
    except (OtherGuideError, PretrainedError, DamagedFileError) as error:
        raise SystemExit(str(error)) from error
