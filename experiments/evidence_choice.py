"""The choice of evidence in a script: rewards by name, with an argument and a weight, and hard constraints on them.

--reward vader                      a reward
--reward vader "0.05*length"        a weighted sum
--reward classifier:PATH:LABEL      one that takes an argument
--reward function:my.py:kindness    a function of yours, of texts
--constraint words:good,great       only what contains one of these words
--constraint "vader>=0.5"           only what has so much of a reward
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments.registry import load_prior
from inference import random_state, solve_beta
from model import (
    Constraint,
    Evidence,
    Expert,
    LanguageModel,
    Length,
    Pattern,
    Prompts,
    RewardPosterior,
    SequenceClassifier,
    TextEvidence,
    TextLikelihood,
    TokenEvidence,
    UncertainReward,
    WeightedSum,
    vader_sentiment,
)
from model.preferences import PriorFeatures
from model.rewards.classifier import Output


class Reward(NamedTuple):
    """An entry of the registry. Calling it makes evidence.

    Attributes:
        make: takes the prior's language model, which decodes the responses, and the argument.
        summary: one line.
        argument: what stands after the colon, in words; empty if nothing does, in brackets if it can be left out.
    """

    make: Callable[[LanguageModel, str], Evidence]
    summary: str
    argument: str = ""

    def __call__(self, language_model: LanguageModel, argument: str = "") -> Evidence:
        return self.make(language_model, argument)


def _vader(prior: LanguageModel, _: str) -> Evidence:
    return TextEvidence(vader_sentiment, prior, upper_bound=1.0)


def _pattern(prior: LanguageModel, pattern: Pattern) -> Evidence:
    return TextEvidence(pattern, prior, whole=False)


def _length(prior: LanguageModel, argument: str) -> Evidence:
    if argument and not argument.isdigit():
        raise ValueError(f"expected a number of tokens after the colon, got {argument!r}")
    return Length(prior, int(argument) if argument else None)


def _classifier(prior: LanguageModel, argument: str, output: Output) -> Evidence:
    path, colon, label = argument.rpartition(":")
    if not colon:
        path, label = argument, ""
    found = SequenceClassifier.from_pretrained(path, label or None, output=output, device=prior.device)
    return TextEvidence(found, prior, name=f"classifier {argument}")


def _function(argument: str) -> Callable[..., Any]:
    """A function of a file or of a module, which may have an `upper_bound`."""
    place, _, name = argument.rpartition(":")
    if not place:
        raise ValueError(f"expected FILE.py:NAME or MODULE:NAME after the colon, got {argument!r}")
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ImportError as error:
        raise ValueError(f"cannot import {place}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"expected a function {name!r} in {place}, which has {', '.join(_functions(module)) or 'none'}")
    return function


def _run(path: Path) -> ModuleType:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None  # there is one for every name that ends with .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _functions(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _token_function(prior: LanguageModel, argument: str) -> Evidence:
    function = _function(argument)
    return TokenEvidence(function, prior, upper_bound=getattr(function, "upper_bound", None))


def _fluency(prior: LanguageModel, argument: str) -> Evidence:
    return TextEvidence(TextLikelihood.from_pretrained(argument, device=prior.device), prior, name=f"fluency {argument}")


def _expert(prior: LanguageModel, argument: str) -> Evidence:
    length, temperature, device = prior.max_new_tokens, prior.temperature, str(prior.device)
    expert = load_prior(argument, max_new_tokens=length, temperature=temperature, dtype="float32", device=device)
    return Expert(expert, prior)


def _preferences(prior: LanguageModel, argument: str) -> Evidence:
    folder, _, aggregation = argument.partition(":")
    if aggregation == "marginal-likelihood":
        raise ValueError("the marginal likelihood depends on beta, which is not known here: `experiments.rlhf` takes it")
    posterior = RewardPosterior.load(folder, PriorFeatures(prior))
    return TextEvidence(UncertainReward(posterior, aggregation or "lower-bound", beta=1.0), prior, name=f"reward {argument}")


REWARDS: dict[str, Reward] = {
    "vader": Reward(_vader, "sentiment of prompt and response together, from -1 to 1"),
    "words": Reward(
        lambda prior, argument: _pattern(prior, Pattern.of_words(argument.split(","))),
        "1 for a response with one of some words, else 0",
        "WORD,WORD",
    ),
    "regex": Reward(
        lambda prior, argument: _pattern(prior, Pattern(argument, ignore_case=False)),
        "1 for a response in which a regular expression is found, else 0",
        "EXPRESSION",
    ),
    "function": Reward(
        lambda prior, argument: TextEvidence(_function(argument), prior),
        "a function of yours: takes a list of texts, prompt and response together, and returns as many numbers",
        "FILE.py:NAME",
    ),
    "token-function": Reward(
        _token_function,
        "a function of yours: takes token ids [..., N, T] and where they are no padding, and returns rewards [..., N]",
        "FILE.py:NAME",
    ),
    "length": Reward(_length, "tokens of the response; with a target, minus how far it is from that", "[TOKENS]"),
    "classifier": Reward(
        lambda prior, argument: _classifier(prior, argument, "log-prob"),
        "log-probability of a label of a Hugging Face sequence classifier, nats",
        "PATH:LABEL",
    ),
    "classifier-logit": Reward(
        lambda prior, argument: _classifier(prior, argument, "logit"),
        "its logit; of a reward model, which has one, without the label",
        "PATH:LABEL",
    ),
    "preferences": Reward(
        _preferences,
        "a reward that `experiments.rlhf` inferred from preferences, on the prior's own states: mean, lower-bound, minimum",
        "RUN/reward[:AGGREGATION]",
    ),
    "fluency": Reward(_fluency, "log-likelihood by the token of the text under another language model, nats", "PATH"),
    "expert": Reward(_expert, "log-likelihood of the response under one with the prior's tokens, nats", "PATH"),
}
"""By name, what makes evidence when called with the prior's language model and the argument after the colon."""


def _usage(name: str, argument: str) -> str:
    """How a reward is named, with its argument."""
    optional = argument.startswith("[")
    return f"{name}[:{argument[1:]}" if optional else f"{name}:{argument}" if argument else name


HELP = "r, or several that add up, each [WEIGHT*]NAME[:ARGUMENT].\n\n" + "\n\n".join(
    f"{_usage(name, reward.argument)}: {reward.summary}" for name, reward in REWARDS.items()
)

_REWARD = re.compile(r"(?:(?P<weight>[^*:]*)\*)?(?P<name>[a-z-]+)(?::(?P<argument>.*))?", re.DOTALL)
_CONSTRAINT = re.compile(r"(?P<reward>.*?)(?:(?P<side>>=|<=)(?P<threshold>[^<>=()]*))?", re.DOTALL)


class Chosen(NamedTuple):
    """One choice of the command line, read but not made."""

    text: str
    weight: float
    name: str
    argument: str
    at_least: float | None = None
    at_most: float | None = None

    def evidence(self, prior: LanguageModel) -> Evidence:
        """Make it: a reward, weighted, or a constraint on one."""
        try:
            reward = REWARDS[self.name](prior, self.argument)
        except (OSError, ValueError) as error:
            raise SystemExit(f"{self.text!r}: {error}") from error
        if self.weight != 1:
            reward = WeightedSum({self.name: (self.weight, reward)})
        if self.at_least is None and self.at_most is None:
            return reward
        return Constraint(reward, at_least=self.at_least, at_most=self.at_most, name=self.text)


def read_reward(text: str) -> Chosen:
    """What `--reward` names; exits if that cannot be."""
    found = _REWARD.fullmatch(text)
    if found is None or found["name"] not in REWARDS:
        raise SystemExit(f"--reward {text!r}: expected [WEIGHT*]NAME[:ARGUMENT] with a NAME of {', '.join(REWARDS)}")
    wanted, argument = REWARDS[found["name"]].argument, found["argument"] or ""
    if argument and not wanted:
        raise SystemExit(f"--reward {text!r}: {found['name']} takes no argument")
    if wanted and not wanted.startswith("[") and not argument:
        raise SystemExit(f"--reward {text!r}: expected {found['name']}:{wanted}")
    weight = 1.0 if found["weight"] is None else _number(found["weight"], text)
    if weight == 0:
        raise SystemExit(f"--reward {text!r}: a weight of 0 leaves nothing of it")
    return Chosen(text, weight, found["name"], argument)


def read_constraint(text: str) -> Chosen:
    """What `--constraint` names: a reward and a threshold, by default that it is at least 1; exits if that cannot be."""
    found = _CONSTRAINT.fullmatch(text)
    assert found is not None  # all of it is optional
    reward = read_reward(found["reward"])._replace(text=text)
    threshold = 1.0 if found["side"] is None else _number(found["threshold"], text)
    return reward._replace(at_most=threshold) if found["side"] == "<=" else reward._replace(at_least=threshold)


def read_evidence(rewards: Iterable[str], constraints: Iterable[str]) -> dict[str, Chosen]:
    """All that the arguments name, by how it was written; exits at the first fault."""
    chosen = [*map(read_reward, rewards), *map(read_constraint, constraints)]
    if not chosen:
        raise SystemExit("--reward and --constraint name nothing: there is no evidence, and the posterior is the prior")
    twice = sorted({choice.text for choice in chosen if [other.text for other in chosen].count(choice.text) > 1})
    if twice:
        raise SystemExit(f"{twice[0]!r} is given twice: use a weight, as in '2*{twice[0]}'")
    return {choice.text: choice for choice in chosen}


def budgeted_beta(
    prior: LanguageModel,
    evidence: Mapping[str, Evidence],
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
            found = solve_beta(prior, evidence, prompts, max_kl=max_kl, min_reward=min_reward, num_draws=num_draws)
    except ValueError as error:
        raise SystemExit(f"{'--min-reward' if max_kl is None else '--kl-budget'}: {error}") from error
    size = found.effective_sample_size
    how = "exactly" if size is None else f"from {size:.0f} effective draws"
    print(f"beta {found.beta:.4g}: KL(p* || p0) = {found.kl} nats and E[r] = {found.reward} of the posterior, {how}")
    assert isinstance(found.beta, float)
    return found.beta


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SystemExit(f"{where!r}: {text!r} is no number") from None
