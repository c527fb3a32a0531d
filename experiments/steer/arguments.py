"""Arguments of `steer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from experiments.shared import argument_types as types
from experiments.shared.command_line import Arguments
from experiments.steer.choices import FACTOR_HELP, REWARD_HELP, Choice, read_choices
from experiments.steer.config import configured
from experiments.steer.durations import seconds_of
from experiments.steer.guide_options import GuideOptions
from experiments.steer.processes import num_launched
from experiments.steer.resuming import own_arguments
from guides import GUIDES
from inference import OBJECTIVES, SAMPLERS
from inference.svi.trackers import TRACKERS
from model.common.paths import without_folders

ObjectiveName: TypeAlias = Literal[tuple(OBJECTIVES)]  # type: ignore[valid-type]
TrackerName: TypeAlias = Literal[tuple(TRACKERS)]  # type: ignore[valid-type]
SamplerName: TypeAlias = Literal[tuple(SAMPLERS)]  # type: ignore[valid-type]
READABLE = types.attempt(lambda path: path.open("rb").close(), ", expected a text file")
TextFile: TypeAlias = Annotated[Path, READABLE]

GUIDE_HELP = types.described("q, the guide.", GUIDES)
OBJECTIVE_HELP = types.described("Objective of SVI.", OBJECTIVES)
TRACKER_HELP = types.described(
    "Trackers that get the metrics of each step, and completions at the end.", TRACKERS
)
SAMPLE_HELP = types.described("Sample the posterior without training a guide, by:", SAMPLERS)

TRAINED = types.Used(lambda args: args.sample is None, "with --sample, which trains nothing")
RATED = types.Used(
    lambda args: args.learning_rate is not None,
    "without --learning-rate: steps have a size in nats",
)
UNRATED = types.Used(lambda args: args.learning_rate is None, "with --learning-rate")
STEPPED = types.Used(
    lambda args: args.responses is None and args.time is None, "with --responses or --time"
)
LAUNCHED = types.Used(lambda _: num_launched() is not None, "without torchrun")
SHARDED = types.Used(lambda args: args.shard is not None, "without --shard")
UNTIMED = types.Used(lambda args: args.time is None, "with --time")
SAMPLED = types.Used(lambda args: args.sample is not None, "without --sample")
NO_FILE = types.Used(
    lambda args: args.prompts_file is None and args.dataset is None,
    "with --prompts-file or --dataset",
)
NO_DATASET = types.Used(lambda args: args.dataset is None, "with --dataset")
FROM_DATASET = types.Used(lambda args: args.dataset is not None, "without --dataset")
DATASET_PROMPTS = 8
"""Number of prompts of a data set in a step, and number of measured prompts, by default."""
NO_BUDGET = types.Used(lambda args: not args.beta_budget, "with a budget, which is solved for beta")
DIVIDED = types.Used(lambda args: args.uses_beta, "without a --reward, which beta divides")
RANKED = types.Used(
    lambda args: not args.ranks or args.factor or args.moment,
    "with a sampler of the best draws, without --factor or --moment",
)
PROPOSED = types.Used(
    lambda args: args.sample is None or not SAMPLERS[args.sample].lists_all,
    "with a sampler that lists all responses",
)
NO_PROPOSAL = types.Used(lambda args: args.proposal is None, "with --proposal")
FROM_PRIOR = types.Used(lambda args: args.draws_prior, "with --sample, but for budgets and moments")


@dataclass(frozen=True)
class Steer(Arguments):
    """Bring a language model close to the posterior under a reward, by Pyro's SVI."""

    prior: types.Name = "film-reviews"
    """p0: `film-reviews` (embedded), `smollm2` (135M parameters; `make smollm2` first), a folder in
    Hugging Face format, or a name on the hub."""
    reward: Annotated[tuple[str, ...], tyro.conf.arg(help=REWARD_HELP)] = ("vader",)
    constraint: tuple[str, ...] = ()
    """Hard constraints, each a reward and a threshold, as in `vader>=0.5` or `words:war<=0`. The
    default threshold is >=1. A word that ends like a threshold needs a threshold: `words:x=5>=1`.
    Objectives of KL(q || p*) refuse constraints: choose `--objective forward-kl`, a sampler, or a
    `--penalty`."""
    factor: Annotated[tuple[str, ...], tyro.conf.arg(help=FACTOR_HELP)] = ()
    moment: tuple[str, ...] = ()
    """Distributional constraints, each a reward and its mean over prompts, as in `words:film=0.5`.
    The posterior is the distribution with these means that is closest to the posterior without."""
    penalty: types.Positive | None = None
    """Soften the constraints: a forbidden response costs this many nats."""
    beta: Annotated[types.Positive, NO_BUDGET, DIVIDED, RANKED] = 0.1
    """Reward per nat: the reward that is worth one nat of distance from the prior. A smaller beta
    steers harder. With `--objective self-play` it sets how certain the judge is: x beats y with
    probability sigmoid((r(x) - r(y))/beta)."""
    kl_budget: Annotated[types.Positive, DIVIDED, RANKED] | None = None
    """Choose beta such that KL(p* || p0), averaged over prompts, equals this many nats. Replaces
    `--beta`."""
    min_reward: Annotated[float, types.number(), DIVIDED, RANKED] | None = None
    """Choose beta such that the posterior's E[r], averaged over prompts, equals this reward.
    Replaces `--beta`."""
    guide: Annotated[types.GuideName, PROPOSED, NO_PROPOSAL, tyro.conf.arg(help=GUIDE_HELP)] = (
        "fine-tuned"
    )
    student: Annotated[types.Name, TRAINED] | None = None
    """Language model with the prior's tokens that the guide starts from in place of the prior: a
    folder in Hugging Face format, or a name on the hub. The prior is then the teacher. With an
    empty `--reward` the fit is on-policy distillation."""
    options: Annotated[GuideOptions, tyro.conf.arg(name="")] = field(default_factory=GuideOptions)
    objective: Annotated[ObjectiveName, TRAINED, tyro.conf.arg(help=OBJECTIVE_HELP)] = (
        "leave-one-out"
    )
    sample: Annotated[SamplerName | None, tyro.conf.arg(help=SAMPLE_HELP)] = None
    budget: Annotated[types.Count, SAMPLED, PROPOSED] = 4096
    """Number of responses that `--sample` draws for each prompt."""
    proposal: Annotated[Path, SAMPLED, PROPOSED] | None = None
    """Proposal of `--sample`: a trained guide such as RUN/guide, or a language model in Hugging
    Face format. Default: `--guide` if the guide needs no training, else the prior."""
    prompts: Annotated[tuple[str, ...], types.SOME, NO_FILE] = ("The film was", "The movie was")
    """Prompts, which the responses continue."""
    prompts_file: Annotated[TextFile, NO_DATASET] | None = None
    """Text file with a prompt on each line. Replaces `--prompts`."""
    dataset: types.Name | None = None
    """Prompts, texts or chat messages, with columns for the rewards: a file in JSON lines, JSON,
    CSV or Parquet, a folder of the `datasets` library, or a name on the hub. Replaces
    `--prompts`."""
    dataset_config: Annotated[types.Name, FROM_DATASET] | None = None
    """Configuration of a folder or of a data set on the hub."""
    dataset_split: Annotated[types.Name, FROM_DATASET] | None = None
    """Split of a folder or of a data set on the hub. Default: the only one, or `train`."""
    prompt_column: Annotated[types.Name, FROM_DATASET] = "prompt"
    """Column of the prompts in `--dataset`."""
    dataset_columns: Annotated[tuple[str, ...], FROM_DATASET] | None = None
    """Further columns that are read from `--dataset`. Default: all."""
    limit: Annotated[types.Count, FROM_DATASET] | None = None
    """Largest number of prompts of `--dataset`, the first ones. Default: all."""
    max_prompt_tokens: Annotated[types.Length, FROM_DATASET] | None = None
    """Leave out prompts of `--dataset` that have more tokens; the report has their number. Default:
    a prompt that is too long for the prior is refused."""
    system: str | None = None
    """Message of the system in front of each prompt. Makes a chat of a prompt that is a text."""
    prompts_per_step: Annotated[types.Count, TRAINED] | None = None
    """Largest number of prompts in a step; each prompt comes once in an epoch. Default: all
    prompts, of `--dataset` 8."""
    micro_batch: Annotated[types.Count, TRAINED] | None = None
    """Largest number of responses that are scored and differentiated at a time. The gradient of a
    step stays the same, its memory falls, and it takes a third longer. Default: all responses."""
    checkpoint_activations: Annotated[bool, TRAINED] = False
    """Compute the activations inside each layer again in the backward pass, to save memory."""
    divide: Annotated[Literal["particles", "prompts"], TRAINED, LAUNCHED] = "particles"
    """Axis of a step that the processes of `torchrun` divide: the responses to each prompt, or the
    prompts. The result is the same."""
    shard: Annotated[Literal["guide", "both"], TRAINED] | None = None
    """Hold a part of every layer on each process of `torchrun` and gather a layer while it runs, of
    the guide, or of guide and prior: for networks larger than one device. Layers that guide and
    prior share, as with `--guide lora`, are held once. Default: each process holds all."""
    gather_draws: Annotated[bool, TRAINED, SHARDED] = False
    """Gather a sharded network once for all tokens of a draw, and not for each token, if the
    network fits on one device."""
    measured_prompts: types.Count | None = None
    """Number of prompts that are measured, or sampled by `--sample`, and over which budgets and
    moments are averaged: a random subset by the seed. Default: all prompts, of `--dataset` 8."""
    max_new_tokens: types.Length = 12
    """T, the largest number of tokens of a response."""
    temperature: types.Positive = 0.7
    """Temperature that divides the logits of prior and guide. Below 1 the prior writes with more
    care, and there is less to learn."""
    steps: Annotated[types.Count, TRAINED, STEPPED] = 150
    """Number of SVI steps."""
    responses: Annotated[int, types.count(at_most=10**9), TRAINED, UNTIMED] | None = None
    """Number of guide responses to train on, over all prompts, in place of `--steps`. The fit ends
    earlier if the gain of the ELBO is below its noise."""
    time: Annotated[str, types.attempt(seconds_of), TRAINED] | None = None
    """Time of the fit in place of `--steps`, as in 90s, 5m or 1h. The fit ends earlier if the gain
    of the ELBO is below its noise. `--resume` goes on with the time left."""
    particles: Annotated[types.Count, TRAINED] = 32
    """K, the number of responses for each prompt in a step."""
    step_kl: Annotated[types.Positive, TRAINED, UNRATED] | None = None
    """Largest size of a step, KL(q_old || q_new) in nats. Smaller steps are safer, and need more of
    them. Default: 0.05, for every prior and guide; 0.2 for whole steps, as `gauss-newton` has."""
    learning_rate: Annotated[types.Rate, TRAINED] | None = None
    """Peak learning rate of Adam in place of steps in nats, after a warm-up over a twentieth of the
    steps and before a cosine to 0. It has to suit the prior and the guide."""
    clip_norm: Annotated[types.Positive, RATED] | None = None
    """Norm that larger gradients are scaled down to, beside `--learning-rate`."""
    samples: Annotated[int, types.count(2)] = 1024
    """Number of guide responses for each prompt in each measurement; with `--sample`, of prior
    responses behind E[r] of the prior."""
    prior_draws: Annotated[int, types.count(2), FROM_PRIOR] = 1024
    """Number of prior responses for each prompt. Prior and guide responses together estimate log Z
    and both divergences; as many of each is a safe choice."""
    seed: types.Seed = 0
    """Random seed."""
    device: types.Device | None = None
    """Device, `cpu` or `cuda`. Default: a GPU if there is one."""
    dtype: types.DtypeName = "float32"
    """Dtype of the weights."""
    compile: bool = False
    """Draw responses by a compiled step, a CUDA graph on a GPU and `torch.compile` on a CPU. The
    draws are the same up to rounding. Compiling takes seconds on a GPU and a minute on a CPU. On a
    GPU the scores and the gradient after short prompts are graphs too. Mixtures, and guides
    with networks of their own, draw as without this option."""
    trust_remote_code: bool = False
    """Run the code that comes with a checkpoint of a prior or a reward, which is refused otherwise.
    `--resume` never takes this permission from the earlier run."""
    threads: types.Threads | None = None
    """Number of CPU threads. Default: torch's choice."""
    checkpoint_every: Annotated[types.Count, TRAINED] = 50
    """Number of steps between checkpoints."""
    out: types.Out = Path("runs")
    """Folder in which the run folder is made."""
    report_to: Annotated[tuple[TrackerName, ...], TRAINED, tyro.conf.arg(help=TRACKER_HELP)] = ()
    watch: Annotated[bool, TRAINED] = False
    """Also write RUN/live.html, a page that follows the fit: ELBO against log Z, reward against KL,
    responses, time left. Open the page in a browser; no server is needed."""
    merge: bool = False
    """Also write RUN/merged, prior and adapter of `--guide lora` as one network in Hugging Face
    format."""
    config: TextFile | None = None
    """File of options, in YAML, or the `arguments.json` of a run. Options on the command line come
    before it."""
    resume: Path | None = None
    """Run folder to resume from its last checkpoint, with the run's own arguments and files. Other
    arguments are refused, except for more `--steps`, `--responses` or `--time`, and for `--shard`:
    any number of processes goes on, and one process has whole networks. Changed files are
    refused."""
    complete: Annotated[bool, tyro.conf.Suppress] = False
    """True if the fields are those of the run to resume, with a larger budget."""

    def completed(self, parse: Callable[[Steer], Steer]) -> Steer:
        if self.resume is None and self.config is None:
            return self
        if self.resume is None:
            return configured(self, parse)
        if self.config is not None:
            raise SystemExit("--config is given with --resume, which has the run's own arguments")
        return own_arguments(self, parse)

    @property
    def beta_budget(self) -> dict[str, float]:
        """Budgets that are solved for beta, by their names for `solve_beta`; empty if none."""
        budgets = {"max_kl": self.kl_budget, "min_reward": self.min_reward}
        return {name: value for name, value in budgets.items() if value is not None}

    @property
    def fit_budget(self) -> dict[str, Any]:
        """Budget of the fit, by its name for `fit`."""
        if self.time is not None:
            return {"max_seconds": seconds_of(self.time)}
        if self.responses is not None:
            return {"num_responses": self.responses}
        return {"num_steps": self.steps}

    @property
    def num_per_step(self) -> int | None:
        """Largest number of prompts in a step; None for all."""
        return self.prompts_per_step or (DATASET_PROMPTS if self.dataset else None)

    @property
    def num_measured(self) -> int | None:
        """Largest number of measured prompts; None for all."""
        return self.measured_prompts or (DATASET_PROMPTS if self.dataset else None)

    @property
    def draws_prior(self) -> bool:
        """True if draws of the prior estimate something."""
        return self.sample is None or bool(self.beta_budget or self.moment)

    @property
    def uses_beta(self) -> bool:
        """True if a reward is divided by beta, or a factor takes beta."""
        takes_beta = self.factor and any(choice.entry.takes_beta for choice in self.choices)
        return bool(self.reward or takes_beta)

    @property
    def ranks(self) -> bool:
        """True for a sampler that ranks draws, for which a single reward has no unit."""
        return self.sample is not None and SAMPLERS[self.sample].target == "best of n"

    @property
    def divides(self) -> bool:
        """True if beta, given or solved for a budget, has an effect."""
        return all(each.when(self) for each in (DIVIDED, RANKED))

    @property
    def choices(self) -> list[Choice]:
        """Rewards, constraints, factors and moments, as read. A student may have none."""
        texts = self.reward, self.constraint, self.factor, self.moment
        choices = read_choices(*texts) if self.student is None or any(texts) else []
        return [each._replace(trust_remote_code=self.trust_remote_code) for each in choices]

    @property
    def guide_options(self) -> dict[str, Any]:
        """Options of the chosen guide; a match before training takes the micro-batch of steps."""
        options = asdict(self.options).get(self.guide.replace("-", "_"), {})
        if options.get("match_micro_batch", 0) is None:
            options["match_micro_batch"] = self.micro_batch
        return options

    @property
    def loading(self) -> dict[str, Any]:
        """Settings with which the prior, or a language model as proposal, is loaded."""
        names = ("max_new_tokens", "temperature", "dtype", "device", "trust_remote_code")
        given = {name: getattr(self, name) for name in names} | {"compile_decode": self.compile}
        # a network larger than a device is loaded on the CPU, and each layer is moved as a shard
        return given if self.shard is None else given | {"device": "cpu"}

    @property
    def target_name(self) -> str:
        """The posterior in words."""
        penalty = "" if self.penalty is None else f" (soft, {self.penalty:g} nats)"
        parts = [" + ".join(self.reward) or "no reward"]
        parts += [f"given {constraint}{penalty}" for constraint in self.constraint]
        parts += [f"times {factor}" for factor in self.factor]
        parts += [f"with means {', '.join(self.moment)}"] if self.moment else []
        parts[-1] += f", beta {self.beta:g}" if self.divides else ""
        return " ".join(parts)

    @property
    def title(self) -> str:
        """Title of the report."""
        counts = f"{self.steps} steps" if self.responses is None else f"{self.responses} responses"
        run = f"{self.guide}, {self.objective}, {self.time or counts}"
        return without_folders(f"{self.prior} steered by {self.target_name}: {run}")
