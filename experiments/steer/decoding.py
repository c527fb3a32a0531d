"""Inference at decoding time, `--sample`: a sampler instead of a fit, and its `--proposal`."""

import json
import math
import time
from collections.abc import Mapping
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
from experiments.steer.measurements import write_sample_measurements
from experiments.steer.posterior import noise_warnings
from experiments.steer.report import MARK, ONE_VALUE, samples_text, scored_texts
from guides import GUIDES, Fixed, Guide, saved
from guides.guide import OtherGuideError
from guides.saved import GUIDE_FILE
from inference import SAMPLERS, Estimate, Posterior, random_state
from inference.estimate import log_mean, log_mean_exp
from inference.samplers.proposal import draw_chunks
from model import AlignmentModel, LanguageModel, Prompts
from model.common import ranks
from model.common.files import DamagedFileError
from model.common.paths import without_folders
from model.networks.source import PretrainedError
from model.prior.named_priors import load_prior


def numbers_of(
    model: AlignmentModel,
    prompts: Prompts,
    posterior: Posterior,
    prior_response: Tensor,
    target: str = "posterior",
) -> dict[str, dict[str, Estimate]]:
    """Numbers of prior and target by name, means over prompts.

    Expectations have their standard errors, and so has log Z, nats, of independent weighted draws.
    The diagnostics are numbers of the sampler.
    """
    prior = observe(model, prompts, prior_response)
    weighted = observe(model, prompts, posterior.response)
    pairs = {"reward": (prior.reward, weighted.reward)}
    for name, phi in prior.features.items():
        pairs[f"E[{without_folders(name)}]"] = phi, weighted.features[name]
    numbers: dict[str, dict[str, Estimate]] = {"prior": {}, target: {}}
    for name, (of_prior, of_posterior) in pairs.items():
        # NaN where the reward or the feature does not apply
        applies = ~of_prior.isnan().all(0)
        zeros = of_posterior.nan_to_num(0.0, neginf=-torch.inf)
        numbers["prior"][name] = mean_of_draws(of_prior, applies)
        numbers[target][name] = posterior.estimate(zeros, applies)
    if posterior.log_z is not None:
        numbers[target]["log_z"] = log_z_of(posterior, posterior.log_z)
    for name, value in posterior.diagnostics.items():
        numbers[target][name] = Estimate(value.double().mean().item(), math.nan)
    return numbers


def log_z_of(posterior: Posterior, log_z: Tensor) -> Estimate:
    """Mean of log Z over prompts, nats; of unknown error unless it is the mean weight of draws."""
    if posterior.exact:
        return Estimate.exact(log_z)
    is_mean = torch.allclose(log_mean(posterior.log_weight), log_z.double())
    if posterior.group is None and is_mean:
        return log_mean_exp(posterior.log_weight)
    return Estimate(log_z.mean().item(), math.nan)


def lines_of(
    numbers: Mapping[str, Mapping[str, Estimate]], *, scope: str = "", exact: bool = False
) -> list[str]:
    """Lines of numbers, with a mark if the draws to a prompt have one value.

    Args:
        numbers: see `numbers_of`.
        scope: words on the prompts behind E[r], if these are not all.
        exact: True if the draws of the target are all responses.
    """
    names = {"reward": f"E[r{scope}]", "log_z": "log Z, nats"}
    names |= {"kl": "KL to the proposal, nats", "kl_bound": "bound of this KL, nats"}
    texts: dict[str, str] = {}
    (prior, expectations), (target, every) = numbers.items()
    for name in every:
        symbol = names.get(name, name)
        if name not in expectations:
            value, error = every[name]
            text = f"{value:.4g}" if math.isnan(error) else cell(value, error)
            texts[symbol.replace("_", " ")] = text
            continue
        for origin in (prior, target):
            mean = numbers[origin][name]
            is_constant = mean.is_constant and not (exact and origin == target)
            texts[f"{symbol} of the {origin}"] = cell(*mean) + MARK * is_constant
    width = max(map(len, texts))
    lines = [f"{name:{width}}  {text}" for name, text in texts.items()]
    is_marked = any(text.endswith(MARK) for text in texts.values())
    return [*lines, *[f"{MARK.strip()} {ONE_VALUE}."] * is_marked]


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
    size = "all" if SAMPLERS[args.sample].lists_all else args.budget
    title = f"{args.prior} under {args.target_name}: {args.sample}, {size} responses"
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
    scope = scope_of(model.reward(prompts, prior_response[:1]))
    lines = lines_of(numbers, scope=scope, exact=posterior.exact)
    reasons = replace(posterior, origin=str(origin)).warnings
    for warning in reasons:
        lines.append(f"{MARK.strip()} {warning}: numbers of the {sampler.target} may be far off.")
    if ranks.is_first():
        head = {"title": without_folders(f"{title} from {origin}"), "beta": args.beta}
        write_sample_measurements(folder, head | {"seconds": seconds}, numbers, reasons)
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
