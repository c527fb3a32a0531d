"""The choice of evidence in a script: rewards by name, with a weight, and constraints on them.

--reward vader                      a reward
--reward vader "0.05*length"        a weighted sum
--reward classifier:PATH:LABEL      one that takes an argument
--reward function:my.py:kindness    a function of yours, of texts
--constraint words:good,great       only what contains one of these words
--constraint "vader>=0.5"           only what has so much of a reward
--moment words:film=0.5             half of the responses contain the word
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments.shared.refusals import FAULTS, blamed
from inference import match_moments, random_state, solve_beta
from model import AlignmentModel, Constraint, Factor, LanguageModel, Prompts, Reward, WeightedSum
from model.registry import REWARDS, usage

_REWARD = re.compile(r"(?:(?P<weight>[^*:]*)\*)?(?P<name>[a-z-]+)(?::(?P<argument>.*))?", re.DOTALL)
_CONSTRAINT = re.compile(r"(?P<reward>.*?)(?:(?P<side>>=|<=)(?P<threshold>[^<>=()]*))?", re.DOTALL)
_COMPARED = re.compile(r"[<>=]\s*[-+]?[\d.]+\s*$")
HELP = "r, or several rewards that add up, each [WEIGHT*]NAME[:ARGUMENT].\n\n" + "\n\n".join(
    f"{usage(name, reward.argument)}: {reward.summary}" for name, reward in REWARDS.items()
)


class Chosen(NamedTuple):
    """One choice of the command line, read but not made.

    Attributes:
        text: as it was written; of a constraint with its threshold, of a moment without its mean.
        weight: of the reward.
        name: of the reward.
        argument: of the reward, empty for none.
        at_least: threshold of a constraint.
        at_most: the other one.
        mean: of a moment.
    """

    text: str
    weight: float
    name: str
    argument: str
    at_least: float | None = None
    at_most: float | None = None
    mean: float | None = None

    @property
    def option(self) -> str:
        """The option in which it stands."""
        if self.mean is not None:
            return "--moment"
        return "--reward" if self.at_least is self.at_most is None else "--constraint"

    def reward(self, prior: LanguageModel, *, trust_remote_code: bool = False) -> Reward:
        """Make the reward, weighted."""
        with blamed(f"{self.option} {self.text!r}", FAULTS):
            reward = REWARDS[self.name](prior, self.argument, trust_remote_code=trust_remote_code)
        return reward if self.weight == 1 else WeightedSum({self.name: (self.weight, reward)})

    def piece(self, prior: LanguageModel, *, trust_remote_code: bool = False) -> Reward:
        """Make the reward, or the hard constraint on it."""
        reward = self.reward(prior, trust_remote_code=trust_remote_code)
        if self.at_least is None and self.at_most is None:
            return reward
        return Constraint(reward, at_least=self.at_least, at_most=self.at_most, name=self.text)


def read_reward(text: str, option: str = "--reward", whole: str | None = None) -> Chosen:
    """What `--reward` names; exits if that cannot be.

    Args:
        text: [WEIGHT*]NAME[:ARGUMENT].
        option: in which it stands, for errors.
        whole: of which it is part there; default all of it.
    """
    where = f"{option} {text if whole is None else whole!r}"
    found = _REWARD.fullmatch(text)
    if found is None or found["name"] not in REWARDS:
        raise SystemExit(
            f"{where}: expected [WEIGHT*]NAME[:ARGUMENT] with a NAME of {', '.join(REWARDS)}"
        )
    wanted, argument = REWARDS[found["name"]].argument, found["argument"]
    if argument and not wanted:
        raise SystemExit(f"{where}: {found['name']} takes no argument")
    if argument == "" or (argument is None and wanted and not wanted.startswith("[")):
        raise SystemExit(f"{where}: expected {usage(found['name'], wanted)}")
    weight = 1.0 if found["weight"] is None else _number(found["weight"], where)
    if abs(weight) < 1e-12:
        raise SystemExit(f"{where}: a weight of {weight:g} leaves nothing of it")
    return Chosen(whole or text, weight, found["name"], argument or "")


def read_constraint(text: str) -> Chosen:
    """What `--constraint` names: a reward and a threshold, by default that it is at least 1; exits if that cannot be."""
    found = _CONSTRAINT.fullmatch(text)
    assert found is not None  # all of it is optional
    where = f"--constraint {text!r}"
    if found["side"] is None and "regex:" not in text and (compared := _COMPARED.search(text)):
        fix = f"or, for a word that has {compared[0]!r} in it, '{text}>=1'"
        raise SystemExit(f"{where}: expected >= or <= before a threshold; {fix}")
    reward = read_reward(found["reward"], "--constraint", text)
    if found["side"] is None:
        return reward._replace(text=f"{text}>=1", at_least=1.0)
    threshold = _number(found["threshold"], where)
    return (
        reward._replace(at_most=threshold)
        if found["side"] == "<="
        else reward._replace(at_least=threshold)
    )


def read_moment(text: str) -> Chosen:
    """What `--moment` names: a reward and the mean that it is to have; exits if that cannot be."""
    reward, _, mean = text.rpartition("=")
    if not reward:
        raise SystemExit(f"--moment {text!r}: expected REWARD=MEAN, as in words:film=0.5")
    return read_reward(reward, "--moment", text)._replace(
        text=reward, mean=_number(mean, f"--moment {text!r}")
    )


def read_choices(
    rewards: Iterable[str], constraints: Iterable[str], moments: Iterable[str] = ()
) -> list[Chosen]:
    """All that the arguments name; exits at the first fault."""
    chosen = [
        *map(read_reward, rewards),
        *map(read_constraint, constraints),
        *map(read_moment, moments),
    ]
    if not chosen:
        raise SystemExit(
            "--reward, --constraint and --moment name nothing: without evidence the posterior is the prior"
        )
    for i, choice in enumerate(chosen):
        before = [
            other.text for other in chosen[:i] if (other.mean is None) == (choice.mean is None)
        ]
        if choice.text in before:
            plain = choice.at_least is choice.at_most is choice.mean is None
            fix = f"use a weight, as in '2*{choice.text}'" if plain else "leave one out"
            raise SystemExit(f"{choice.option} {choice.text!r} is given twice: {fix}")
    return chosen


def matched(
    base: AlignmentModel,
    moments: Sequence[Chosen],
    prompts: Prompts,
    *,
    num_draws: int,
    seed: int,
    trust_remote_code: bool = False,
) -> AlignmentModel:
    """The model whose posterior is the nearest to that of `base` with the moments as chosen. Exits if there is none."""
    features = {
        choice.text: choice.reward(base.prior, trust_remote_code=trust_remote_code)
        for choice in moments
    }
    targets = {choice.text: choice.mean for choice in moments if choice.mean is not None}
    with random_state.isolated(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it warns of is printed
        try:
            found = match_moments(base, prompts, features, targets, num_draws=num_draws)
            tilt = found.factor
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"--moment: {error}") from error
    print(found)
    return AlignmentModel(base.prior, base.rewards, base.beta, {**base.factors, "moments": tilt})


def budgeted_beta(
    prior: LanguageModel,
    rewards: Mapping[str, Reward],
    factors: Mapping[str, Factor],
    prompts: Prompts,
    *,
    max_kl: float | None,
    min_reward: float | None,
    num_draws: int,
    seed: int,
) -> float:
    """The beta that a budget comes to; prints what the posterior is there. Exits if no beta meets it."""
    try:
        with random_state.isolated(seed):
            found = solve_beta(
                prior,
                rewards,
                prompts,
                factors=factors,
                max_kl=max_kl,
                min_reward=min_reward,
                num_draws=num_draws,
            )
    except ValueError as error:
        raise SystemExit(
            f"{'--min-reward' if max_kl is None else '--kl-budget'}: {error}"
        ) from error
    size = found.effective_sample_size
    how = "exactly" if size is None else f"from {size:.0f} effective draws"
    print(
        f"beta {found.beta:.4g}: KL(p* || p0) = {found.kl} nats and E[r] = {found.reward} of the posterior, {how}"
    )
    assert isinstance(found.beta, float)
    return found.beta


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SystemExit(f"{where}: {text!r} is no number")
    return number
