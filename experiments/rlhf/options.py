"""Arguments of `experiments.rlhf`, and the models that they name."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from experiments.shared import argument_types as types
from experiments.shared.claims import FigureArguments
from experiments.shared.refusals import FAULTS, blamed
from guides import GUIDES
from inference.reward_posterior import REWARD_INFERENCE
from model import LanguageModel
from model.preferences import AGGREGATIONS, HEADS, EncoderFeatures, Features, PriorFeatures
from model.prior.named_priors import load_prior

InferenceName: TypeAlias = Literal[tuple(REWARD_INFERENCE)]  # type: ignore[valid-type]
AggregationName: TypeAlias = Literal[tuple(AGGREGATIONS)]  # type: ignore[valid-type]
HeadName: TypeAlias = Literal[tuple(HEADS)]  # type: ignore[valid-type]
Size = Annotated[int, types.count(1, 100_000)]
SIMULATED = types.Used(
    lambda args: args.preferences is None, "with --preferences, where nothing is simulated"
)
UNCERTAIN = types.Used(
    lambda args: not REWARD_INFERENCE[args.inference].is_point,
    "with an --inference of one point, without uncertainty",
)
FROM_FILE = types.Used(lambda args: args.preferences is not None, "without --preferences")


@dataclass(frozen=True)
class RLHF(FigureArguments):
    """Learn a reward from preferences, with its uncertainty, and steer a language model by it."""

    preferences: types.Name | None = None
    """Preferences or rankings, texts or chats: a file in JSON lines, JSON, CSV or Parquet, a folder
    of the `datasets` library, or a name on the hub. Default: simulate preferences from a known
    reward."""
    prompt_column: Annotated[types.Name, FROM_FILE] = "prompt"
    """Column of the prompts in `--preferences`."""
    prior: types.Name = "film-reviews"
    """Prior: `film-reviews`, `smollm2`, a folder in Hugging Face format, or a name on the hub."""
    encoder: types.Name | None = None
    """Encoder for the features of the reward. Default: the hidden states of the prior."""
    trust_remote_code: bool = False
    """Run the code that comes with a checkpoint; such a checkpoint is refused otherwise."""
    components: Size = 128
    """Number of principal components of the features of the reward."""
    head: HeadName = "linear"
    """Reward of the features: `linear`, or `mlp` (for the inferences `map`, `ensemble`, `nuts`)."""
    prior_scale: types.Positive = 2.0
    """Prior standard deviation of a typical response's reward, log-odds; gold has 1.1 to 1.5."""
    inference: InferenceName = "laplace"
    """Inference of the reward."""
    reward_samples: Annotated[Size, UNCERTAIN] = 64
    """Number of draws S of the reward."""
    aggregation: Annotated[AggregationName, UNCERTAIN] = "lower-bound"
    """Aggregation of the S draws into the likelihood that the guide is tuned on."""
    beta: types.Positive = 0.4
    """Reward (log-odds) per nat, for the guide."""
    prompt: Annotated[str, SIMULATED] = "The film was"
    """Prompt of the simulated responses of T tokens."""
    word_prompt: Annotated[str, SIMULATED] = "The film was very"
    """Prompt of the simulated responses of one token."""
    max_new_tokens: types.Length = 12
    """Largest number of tokens T in a response."""
    temperature: types.Positive = 0.7
    """Temperature that divides the logits of prior and guide."""
    num_preferences: Annotated[tuple[Size, ...], types.DISTINCT, SIMULATED] = (30, 100, 300, 1000)
    """Numbers of simulated preferences. Each number has data sets of its own."""
    gold_scale: Annotated[float, types.number(at_least=-1e6, at_most=1e6), SIMULATED] = 4.0
    """Log-odds that a sentiment of 1 is preferred to a sentiment of 0."""
    tie_strength: types.Positive | None = None
    """Strength of ties; at 1, equal rewards tie as often as either wins. Default: most probable."""
    flip: Annotated[
        float, types.number(at_least=0, below=0.5, why="at 1/2 labels would say nothing")
    ] = 0.0
    """Probability that an annotator turns a label around, in simulation and inference."""
    seeds: Annotated[types.Seeds, SIMULATED] = 12
    """Number of data sets for each number of preferences, behind the standard errors."""
    draws: Annotated[int, types.count(2), SIMULATED] = 4096
    """Number of prior draws of T tokens behind the posteriors. Preferences use half as many."""
    min_effective: Annotated[float, types.number(at_least=1), SIMULATED] = 100.0
    """Smallest effective sample size of the draws at which a posterior is trusted."""
    betas: Annotated[int, types.count(2, 10_000), SIMULATED] = 60
    """Number of betas in a sweep."""
    simulations: Annotated[int, types.count(0, 100_000), SIMULATED] = 50
    """Number of simulations of simulation-based calibration; 0 for no calibration."""
    held_out: Annotated[float, types.number(above=0, below=1), FROM_FILE] = 0.2
    """Share of the file's preferences that the reward is tested on."""
    max_prompts: Annotated[types.Count, FROM_FILE] = 16
    """Largest number of the file's prompts that the guide is tuned on."""
    guide: Annotated[
        types.GuideName, tyro.conf.arg(help=types.described("The trained guide q.", GUIDES))
    ] = "twisted"
    steps: types.Count = 40
    """Number of SVI steps."""
    particles: Annotated[int, types.count(2)] = 64
    """Number K of responses drawn a step for each prompt."""
    learning_rate: types.Rate | None = None
    """Peak learning rate of Adam, with gradients clipped at a norm of 1. Default: steps in nats."""
    samples: Annotated[int, types.count(2)] = 512
    """Number of guide responses for each prompt in the final measurement."""
    seed: types.Seed = 0
    """Random seed."""
    device: types.Device | None = None
    """Device, `cpu` or `cuda`. Default: a GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gold_scale == 0:
            raise SystemExit("--gold-scale is 0, which prefers nothing: expected another number")
        if not self.min_effective < self.draws:
            raise SystemExit(
                f"--min-effective is {self.min_effective:g}, expected less than --draws, "
                f"{self.draws}: weighted draws are worth fewer"
            )
        if self.tie_strength is not None and self.preferences is None:
            raise SystemExit(
                "--tie-strength is for --preferences: simulated preferences have no ties"
            )
        if not GUIDES[self.guide].trains:
            raise SystemExit(f"--guide {self.guide} has nothing to train")

    def load(self) -> tuple[LanguageModel, Features]:
        """Load the prior, and the features of the reward; exit if either cannot be loaded."""
        unknown = "is no folder, or could not be loaded from it, nor from the hub by that name"
        length, heat = self.max_new_tokens, self.temperature
        code = self.trust_remote_code
        source: dict[str, Any] = {"device": self.device, "trust_remote_code": code}
        with blamed(f"--prior {self.prior} {unknown}", FAULTS):
            prior = load_prior(self.prior, max_new_tokens=length, temperature=heat, **source)
        if self.encoder is None:
            return prior, PriorFeatures(prior)
        with blamed(f"--encoder {self.encoder} {unknown}", FAULTS):
            return prior, EncoderFeatures.from_pretrained(self.encoder, **source)
