"""Arguments of `experiments.dpo`."""

from dataclasses import dataclass
from typing import Annotated

from experiments.shared import argument_types as types
from experiments.shared.claims import ClaimArguments

SIMULATED = types.Used(lambda args: args.preferences is None, "with --preferences")
FROM_FILE = types.Used(lambda args: args.preferences is not None, "without --preferences")


@dataclass(frozen=True)
class DPO(ClaimArguments):
    """Measure the optimum of DPO and its relatives, exactly and from few preferences."""

    preferences: types.Name | None = None
    """Preferences or rankings, texts or chats: a file in JSON lines, JSON, CSV or Parquet, a folder
    of the `datasets` library, or a name on the hub. Default: simulate preferences of a judge."""
    prompt_column: Annotated[types.Name, FROM_FILE] = "prompt"
    """Column of the prompts in `--preferences`."""
    beta: types.Positive = 0.1
    """Reward per nat, for rewards between 0 and 1. The judge has ten nats per unit of reward. With
    `--preferences`, log-odds of a preference per nat."""
    numbers: Annotated[tuple[Annotated[int, types.count(2)], ...], SIMULATED] = (100, 1000)
    """Numbers of preferences between draws of the prior."""
    steps: types.Count = 300
    """Number of steps, the largest number for each exact optimum."""
    pairs: types.Count = 32
    """Number of pairs or rankings in a step of DPO. A step of SVI has twice as many responses."""
    seeds: Annotated[types.Seeds, SIMULATED] = 3
    """Number of data sets of each number of preferences."""
    prior: Annotated[types.Name, FROM_FILE] = "film-reviews"
    """Prior: `film-reviews`, `smollm2`, a folder in Hugging Face format, or a name on the hub."""
    max_new_tokens: Annotated[types.Length, FROM_FILE] = 24
    """Largest number of tokens of a response of the file."""
    guide: Annotated[types.GuideName, FROM_FILE] = "lora"
    """Family of both guides."""
    held_out: Annotated[float, types.number(above=0, below=1), FROM_FILE] = 0.2
    """Share of the file's preferences that the rewards are tested on."""
    learning_rate: Annotated[types.Rate, FROM_FILE] = 1e-3
    """Adam's peak learning rate, for both guides."""
    samples: Annotated[int, types.count(2), FROM_FILE] = 256
    """Number of responses of a guide to each prompt in its measurement."""
