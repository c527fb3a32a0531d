"""Preferences -> reward -> posterior -> guide: RLHF as two inferences, and what happens when the first one is uncertain.

Question: a reward is learned from preferences, and a language model is steered by it. How long does that do any good?
Claim: gold reward against KL rises, peaks and falls, while the proxy goes on rising; more preferences put the peak off (Gao et
al. 2022, arXiv 2210.10760). Pessimism about an uncertain reward puts it off too (Coste et al. 2023, arXiv 2310.02743), while
the marginal likelihood, which is what Bayes says, is optimism: a bonus var/(2 beta) for what is not known.
Printed: how well the reward is recovered (correlation, held-out accuracy, calibration), simulation-based calibration of the
inference, gold reward at several KL for every aggregation, with standard errors over seeds; a guide tuned on the proxy; the
verdict.

Every stage has a truth: the preferences are simulated from a gold reward, VADER's sentiment scaled to log-odds. The posteriors
of the proxies need no training, and that their own reward rises as beta falls is a theorem for a fixed proxy. There are two
worlds. With responses of 12 tokens they are prior draws, weighted, and can be trusted to about 2 nats. Up to there gold reward
hardly fell, as theory has it for a proxy whose errors have light tails on the prior's draws (Kwa et al. 2024, arXiv
2407.14503). With responses of one token all 3,072 of them are listed and every number is exact at any KL: there the proxy gets
to choose words that the preferences never showed, and there the claims are put to the test. The prompt of that world wants an
adjective next ("The film was very"): after "The film was" nearly all words are neutral, and preferences are coin flips.

    python -m experiments.rlhf
    python -m experiments.rlhf --num-preferences 100 1000 --inference ensemble --aggregation minimum
    python -m experiments.rlhf --preferences pairs.jsonl --prior smollm2 --guide lora

With `--preferences` the data are yours: {"prompt": ..., "chosen": ..., "rejected": ...} a line. Gold is unknown then; what is
held out says how good the reward is, RUN/reward keeps it, and a guide is tuned to it on the prompts of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from experiments.rlhf import figures as rlhf_figures
from experiments.rlhf.check import check
from experiments.rlhf.simulated import simulated
from experiments.rlhf.stages import finish, held_out, learn, tune
from experiments.shared.argument_types import (
    DISTINCT,
    Count,
    Device,
    GuideName,
    Length,
    Name,
    Out,
    Positive,
    Rate,
    Seed,
    Seeds,
    TextFile,
    Threads,
    count,
    described,
    number,
    used,
)
from experiments.shared.claims import Finding
from experiments.shared.command_line import Arguments, option, run_script
from experiments.shared.figures import save
from experiments.shared.guide_options import build_guide
from experiments.shared.refusals import FAULTS, blamed, resume_hint
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.shared.tables import text_table
from experiments.shared.workers import set_threads
from guides import GUIDES
from inference import random_state
from inference.reward_posterior import REWARD_INFERENCE
from model import LanguageModel
from model.preferences import (
    AGGREGATIONS,
    HEADS,
    EncoderFeatures,
    Features,
    Preference,
    PriorFeatures,
    read_preferences,
    split_preferences,
)
from model.prior.named_priors import load_prior

if TYPE_CHECKING:
    InferenceName: TypeAlias = str
    AggregationName: TypeAlias = str
    HeadName: TypeAlias = str
else:
    InferenceName, AggregationName, HeadName = (
        Literal[tuple(registry)] for registry in (REWARD_INFERENCE, AGGREGATIONS, HEADS)
    )


SIMULATED = used(
    lambda args: args.preferences is None, "with --preferences, where nothing is simulated"
)
FROM_FILE = used(lambda args: args.preferences is not None, "without --preferences")


@dataclass(frozen=True)
class RLHF(Arguments):
    """Learn a reward from preferences, with its uncertainty, and steer a language model by it."""

    preferences: TextFile | None = None
    """A file of preferences in JSON lines; default: they are simulated from a known reward."""
    prior: Name = "film-reviews"
    """p0: `film-reviews` (embedded), `smollm2`, a folder in Hugging Face format, or a name on the hub."""
    encoder: Name | None = None
    """Features of the reward: any encoder in Hugging Face format; default the prior's own hidden states."""
    trust_remote_code: bool = False
    """Run the code that comes with the checkpoint of prior or encoder; without it such a checkpoint is refused."""
    components: Annotated[int, count(1, 100_000)] = 128
    """Principal components of the features that the reward goes by."""
    head: HeadName = "linear"
    """The reward as a function of the features: `linear`, or `mlp` with one hidden layer, for `map`, `ensemble` or `nuts`."""
    prior_scale: Positive = 2.0
    """Standard deviation of a typical response's reward before there are preferences, in log-odds. Gold has 1.1 to 1.5."""
    inference: Annotated[
        InferenceName,
        tyro.conf.arg(help="How the reward is inferred: " + ", ".join(REWARD_INFERENCE)),
    ] = "laplace"
    reward_samples: Annotated[int, count(1, 100_000)] = 64
    """S, draws of the reward."""
    aggregation: AggregationName = "lower-bound"
    """Of these draws into the evidence that the guide is tuned on."""
    beta: Positive = 0.4
    """Reward (log-odds) per nat, for the guide."""
    prompt: Annotated[str, SIMULATED] = "The film was"
    """What the responses of T tokens continue, where preferences are simulated."""
    word_prompt: Annotated[str, SIMULATED] = "The film was very"
    """What the responses of one token continue."""
    max_new_tokens: Length = 12
    """T: the most tokens a response has."""
    temperature: Positive = 0.7
    """Divides the logits of prior and guide alike."""
    num_preferences: Annotated[
        tuple[Annotated[int, count(1, 100_000)], ...], DISTINCT, SIMULATED
    ] = (30, 100, 300, 1000)
    """Simulated ones; everything is done for each."""
    gold_scale: Annotated[float, number(at_least=-1e6, at_most=1e6), SIMULATED] = 4.0
    """Log-odds that a sentiment of 1 is preferred to one of 0."""
    tie_strength: Positive | None = None
    """nu, with `--preferences`: at 1 two responses of equal reward tie as often as either wins. Default: the most probable."""
    flip: Annotated[float, number(at_least=0, below=0.5, why="at 1/2 labels would say nothing")] = (
        0.0
    )
    """Probability that an annotator slips, of simulated ones and as the inference takes it."""
    seeds: Annotated[Seeds, SIMULATED] = 6
    """Data sets for each number of preferences, behind the standard errors."""
    draws: Annotated[int, count(2), SIMULATED] = 4096
    """Prior draws of T tokens behind the posteriors, and half as many for preferences."""
    min_effective: Annotated[float, number(at_least=1), SIMULATED] = 100.0
    """Effective sample size below which a posterior from these draws is not trusted."""
    betas: Annotated[int, count(2, 10_000), SIMULATED] = 60
    """Values of beta in a sweep."""
    simulations: Annotated[int, count(0, 100_000), SIMULATED] = 50
    """Of simulation-based calibration; 0 for none."""
    held_out: Annotated[float, number(above=0, below=1), FROM_FILE] = 0.2
    """Share of the preferences of a file that the reward is tested on."""
    max_prompts: Annotated[Count, FROM_FILE] = 16
    """Prompts of a file that the guide is tuned on."""
    guide: Annotated[GuideName, tyro.conf.arg(help=described("q, what is trained.", GUIDES))] = (
        "twisted"
    )
    steps: Count = 40
    """Steps of SVI."""
    particles: Annotated[int, count(2)] = 64
    """K: responses drawn a step for each prompt."""
    learning_rate: Rate | None = None
    """Peak learning rate; default what suits the guide on the embedded prior."""
    samples: Annotated[int, count(2)] = 512
    """Responses of the guide, for each prompt, that the final measurement draws."""
    seed: Seed = 0
    """Of every random number."""
    device: Device | None = None
    """`cpu` or `cuda`; default a GPU where there is one."""
    threads: Threads | None = 1
    """CPU threads; None for torch's choice. More help small networks little, and do harm where cores are shared."""
    out: Out = Path("runs")
    """The run folder is made in here."""


def verdict(args: RLHF) -> list[Finding]:
    """The findings alone, by which a script exits."""
    return main(args)[1]


def main(args: RLHF) -> tuple[RunFolder, list[Finding]]:
    """The run folder, and the findings where the preferences are simulated."""
    check(args)
    set_threads(args.threads)
    prior, features = load(args)
    data = None if args.preferences is None else read(args, prior)
    with random_state.isolated(
        args.seed
    ):  # refused here, if it is, rather than once the reward is there
        build_guide(args.guide, {}, prior, prior.encode([args.prompt] if data is None else data[2]))
    with new_folder(args, "rlhf") as folder, resume_hint(lambda: to_go_on(folder)):
        print(f"run folder {folder.path}")
        with random_state.isolated(args.seed):
            if data is None:
                return folder, simulated(args, prior, features, folder)
            from_file(args, *data, prior, features, folder)
            return folder, []


def to_go_on(folder: RunFolder) -> str:
    """A hint for a run that was interrupted; empty if there is no reward yet."""
    reward = folder.path / "reward"
    return (
        f"To go on from its reward: python -m experiments.steer --reward preferences:{reward}"
        if reward.is_dir()
        else ""
    )


def load(args: RLHF) -> tuple[LanguageModel, Features]:
    """Prior and features; exits if there are none of that name, or a prompt does not fit."""
    unknown = "is no folder, or could not be loaded from it, nor from the hub by that name"
    with blamed(f"--prior {args.prior} {unknown}", FAULTS):
        prior = load_prior(
            args.prior,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            dtype="float32",
            device=args.device,
            trust_remote_code=args.trust_remote_code,
        )
    for name in ("prompt", "word_prompt") if args.preferences is None else ():
        with blamed(option(name)):
            prior.encode([getattr(args, name)])
    if args.encoder is None:
        return prior, PriorFeatures(prior)
    with blamed(f"--encoder {args.encoder} {unknown}", FAULTS):
        return prior, EncoderFeatures.from_pretrained(
            args.encoder, device=args.device, trust_remote_code=args.trust_remote_code
        )


def read(args: RLHF, prior: LanguageModel) -> tuple[list[Preference], list[Preference], list[str]]:
    """Preferences to learn from and to test on, and the prompts that the guide is tuned on; exits if they are no use."""
    assert args.preferences is not None
    with blamed("--preferences", (ValueError,)):
        train, test = split_preferences(
            read_preferences(args.preferences), args.held_out, args.seed
        )
        texts = list(dict.fromkeys(preference.prompt for preference in train))[: args.max_prompts]
        prior.encode(texts)
        for name, part in {
            "held-out preferences": test,
            "preferences to learn from": train,
        }.items():
            if all(preference.tie for preference in part):
                raise ValueError(
                    f"all {len(part)} {name} are ties, which say nothing: change --held-out, or give more"
                )
    return train, test, texts


def from_file(
    args: RLHF,
    train: Sequence[Preference],
    test: Sequence[Preference],
    texts: Sequence[str],
    prior: LanguageModel,
    features: Features,
    folder: RunFolder,
) -> None:
    """Preferences as they are: gold is unknown."""
    model, posterior = learn(args, features, train, args.flip, args.seed)
    posterior.save(folder.path / "reward")
    found = held_out(model, posterior, test)
    picture = save(
        rlhf_figures.reliability_figure({"held out": found}), folder.path / "reliability.svg"
    )
    bins = {
        f"confidence {confidence:.2f}": [f"{correct:.2f}", f"{count:.0f}"]
        for confidence, correct, count in zip(
            found.confidence, found.correct, found.count, strict=True
        )
    }
    tables = [
        f"The reward, from {len(train)} preferences, on {len(test)} held out: accuracy {found.accuracy}, log loss "
        f"{found.log_loss} nats, ECE {found.ece:.3f} (by chance {found.ece_by_chance:.3f})"
        + (f", ties of strength {model.tie_strength:.2f}" if model.tie_strength else ""),
        text_table(["predicted right", "comparisons"], bins),
        tune(args, prior, posterior, texts, folder),
    ]
    finish(folder, "\n\n".join(tables), [picture])


if __name__ == "__main__":
    run_script(verdict, RLHF)
