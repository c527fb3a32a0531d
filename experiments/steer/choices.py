"""Choices of the command line: rewards, constraints, factors and moments, by name.

--reward vader                            a reward
--reward vader "0.05*length"              a weighted sum
--reward classifier:PATH:LABEL            a reward with an argument
--reward function:my.py:kindness          your own function of texts
--constraint words:good,great             only responses with one of the words
--constraint "vader>=0.5"                 only responses with a reward of at least 0.5
--factor marginal-likelihood:RUN/reward   a factor in nats
--factor classifier:PATH:LABEL            a reward that is a log-likelihood, as a factor
--moment words:film=0.5                   half of the responses contain the word
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import NamedTuple

from experiments.shared.refusals import FAULTS, blamed
from model import Constraint, Factor, LanguageModel, Reward, Tilt, WeightedSum
from model.registry import FACTORS, REWARDS, RegistryEntry, usage

Strings = Sequence[str]
_REWARD = re.compile(r"(?:(?P<weight>[^*:]*)\*)?(?P<name>[a-z-]+)(?::(?P<argument>.*))?", re.DOTALL)
_CONSTRAINT = re.compile(r"(?P<reward>.*?)(?:(?P<side>>=|<=)(?P<threshold>[^<>=()]*))?", re.DOTALL)
_COMPARED = re.compile(r"[<>=]\s*[-+]?[\d.]+\s*$")


def _lines(registry: Mapping[str, RegistryEntry]) -> str:
    entries = registry.items()
    return "\n\n".join(f"{usage(name, entry.argument)}: {entry.summary}" for name, entry in entries)


REWARD_HELP = (
    f"r: one reward, or several that add up, each [WEIGHT*]NAME[:ARGUMENT].\n\n{_lines(REWARDS)}"
)
FACTOR_HELP = (
    "Factors in nats, which beta does not divide: NAME:ARGUMENT, or a reward that is a "
    f"log-likelihood, as in `function:FILE.py:NAME`.\n\n{_lines(FACTORS)}"
)


class Choice(NamedTuple):
    """A reward, constraint, factor or moment as the command line names it.

    Attributes:
        option: name of the option.
        text: the words on the command line; with the threshold, without the mean of a moment.
        name: name of the reward or factor in its registry.
        argument: argument of the reward or factor; empty for none.
        weight: weight of the reward.
        at_least, at_most: thresholds of a constraint.
        mean: target of a moment.
        trust_remote_code: True to run the code that comes with a network.
    """

    option: str
    text: str
    name: str
    argument: str = ""
    weight: float = 1.0
    at_least: float | None = None
    at_most: float | None = None
    mean: float | None = None
    trust_remote_code: bool = False

    @property
    def entry(self) -> RegistryEntry:
        """Entry of the registry."""
        is_factor = self.option == "--factor" and self.name in FACTORS
        return (FACTORS if is_factor else REWARDS)[self.name]

    def reward(self, prior: LanguageModel) -> Reward:
        """Build the weighted reward."""
        with blamed(f"{self.option} {self.text!r}", FAULTS):
            reward = self.entry(prior, self.argument, trust_remote_code=self.trust_remote_code)
        return reward if self.weight == 1 else WeightedSum({self.name: (self.weight, reward)})

    def constraint(self, prior: LanguageModel) -> Constraint:
        """Build the hard constraint on the reward."""
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        return Constraint(self.reward(prior), **limits, name=self.text)

    def factor(self, prior: LanguageModel, beta: float) -> Factor:
        """Build the factor for a beta."""
        if self.name not in FACTORS:
            return Tilt({self.text: self.reward(prior)}, {self.text: 1.0})
        code = self.trust_remote_code
        with blamed(f"{self.option} {self.text!r}", FAULTS):
            return self.entry(prior, self.argument, trust_remote_code=code, beta=beta)


def read_reward(text: str, option: str = "--reward", whole: str | None = None) -> Choice:
    """Read [WEIGHT*]NAME[:ARGUMENT], part of the whole value of an option; exit if it is none."""
    where = f"{option} {text if whole is None else whole!r}"
    match = _REWARD.fullmatch(text)
    if match is None or match["name"] not in REWARDS:
        form = f"[WEIGHT*]NAME[:ARGUMENT] with a NAME of {', '.join(REWARDS)}"
        if option == "--factor":
            form = f"NAME:ARGUMENT with a NAME of {', '.join(FACTORS)}, or {form}"
        raise SystemExit(f"{where}: expected {form}")
    argument = _argument(match["name"], match["argument"], REWARDS, where)
    weight = 1.0 if match["weight"] is None else _number(match["weight"], where)
    if abs(weight) < 1e-12:
        raise SystemExit(f"{where}: a weight of {weight:g} leaves nothing of the reward")
    return Choice(option, whole or text, match["name"], argument, weight)


def read_factor(text: str) -> Choice:
    """Read a factor, NAME:ARGUMENT, or a reward in nats; exit if the text names neither."""
    name, colon, argument = text.partition(":")
    if name not in FACTORS:
        return read_reward(text, "--factor")
    argument = _argument(name, argument if colon else None, FACTORS, f"--factor {text!r}")
    return Choice("--factor", text, name, argument)


def read_constraint(text: str) -> Choice:
    """Read a reward with a threshold, by default >=1; exit if the text names none."""
    match = _CONSTRAINT.fullmatch(text)
    assert match is not None  # each part is optional
    where = f"--constraint {text!r}"
    if match["side"] is None and "regex:" not in text and (compared := _COMPARED.search(text)):
        fix = f"or, for a word that has {compared[0]!r} in it, '{text}>=1'"
        raise SystemExit(f"{where}: expected >= or <= before a threshold; {fix}")
    choice = read_reward(match["reward"], "--constraint", text)
    if match["side"] is None:
        return choice._replace(text=f"{text}>=1", at_least=1.0)
    threshold = _number(match["threshold"], where)
    is_upper = match["side"] == "<="
    return choice._replace(at_most=threshold) if is_upper else choice._replace(at_least=threshold)


def read_moment(text: str) -> Choice:
    """Read a reward with a mean, as in `words:film=0.5`; exit if the text names none."""
    reward, _, mean = text.rpartition("=")
    if not reward:
        raise SystemExit(f"--moment {text!r}: expected REWARD=MEAN, as in words:film=0.5")
    choice = read_reward(reward, "--moment", text)
    return choice._replace(text=reward, mean=_number(mean, f"--moment {text!r}"))


def read_choices(
    rewards: Strings, constraints: Strings = (), factors: Strings = (), moments: Strings = ()
) -> list[Choice]:
    """Read all choices; exit at the first that is invalid or repeated."""
    choices = [
        *map(read_reward, rewards),
        *map(read_constraint, constraints),
        *map(read_factor, factors),
        *map(read_moment, moments),
    ]
    if not choices:
        problem = "--reward, --constraint, --factor and --moment name nothing"
        raise SystemExit(f"{problem}: without a likelihood the posterior is the prior")
    seen: dict[tuple[bool, str], str] = {}
    for option, text, *_ in choices:
        key = option == "--moment", text  # other options name the parts of one model
        if (other := seen.get(key, option)) != option:
            fix = f"write the weight of one in other digits, as in '{_weighted(text, 1)}'"
            raise SystemExit(f"{option} {text!r} is a {other} too: {fix}")
        if key in seen:
            fix = "leave one out"
            if option == "--reward":
                fix = f"use one of twice the weight, '{_weighted(text, 2)}'"
            raise SystemExit(f"{option} {text!r} is given twice: {fix}")
        seen[key] = option
    return choices


def _weighted(text: str, times: int) -> str:
    """A reward on the command line with so many times its weight, in other digits."""
    match = _REWARD.fullmatch(text)
    assert match is not None  # `read_reward` has read the text
    if (weight := match["weight"]) is None:
        return f"{times}*{text}"
    number = times * Decimal(weight)
    return f"{f'{number:E}' if times == 1 else number}*{text[len(weight) + 1 :]}"


def _argument(
    name: str, argument: str | None, registry: Mapping[str, RegistryEntry], where: str
) -> str:
    """Argument of an entry; exits if the argument is missing or superfluous."""
    expected = registry[name].argument
    if argument and not expected:
        raise SystemExit(f"{where}: {name} takes no argument")
    is_missing = argument is None and expected and not expected.startswith("[")
    if argument == "" or is_missing:
        raise SystemExit(f"{where}: expected {usage(name, expected)}")
    return argument or ""


def _number(text: str, where: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise SystemExit(f"{where}: {text!r} is no number")
