"""The registry of rewards that scripts and tests go by: by name, with an argument where one is taken."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from experiments.shared.inputs import checkpoint_files, code_files
from experiments.shared.priors import load_prior, prior_files
from model import (
    Expert,
    LanguageModel,
    Length,
    Pattern,
    Reward,
    RewardPosterior,
    SequenceClassifier,
    TextLikelihood,
    TextReward,
    TokenReward,
    UncertainReward,
    vader_sentiment,
)
from model.likelihood import LikelihoodError
from model.preferences import AGGREGATIONS, named_encoder, saved_features
from model.rewards.classifier import Output


class RewardEntry(NamedTuple):
    """An entry of the registry. Calling it makes evidence.

    Attributes:
        make: takes the prior's language model, which decodes the responses, and the argument.
        summary: one line.
        argument: what stands after the colon, in words; empty if nothing does, in brackets if it can be left out.
        loads_network: `make` takes, by keyword, whether code that comes with a network may run.
        files: those that the argument names, by what a digest calls them; None if it names none.
        runs: they are code.
    """

    make: Callable[..., Reward]
    summary: str
    argument: str = ""
    loads_network: bool = False
    files: Callable[[str], dict[str, Path]] | None = None
    runs: bool = False

    def __call__(
        self, language_model: LanguageModel, argument: str = "", *, trust_remote_code: bool = False
    ) -> Reward:
        options = {"trust_remote_code": trust_remote_code} if self.loads_network else {}
        return self.make(language_model, argument, **options)


def _vader(prior: LanguageModel, _: str) -> Reward:
    return TextReward(vader_sentiment, prior, upper_bound=1.0)


def _pattern(prior: LanguageModel, pattern: Pattern) -> Reward:
    return TextReward(pattern, prior, whole=False)


def _length(prior: LanguageModel, argument: str) -> Reward:
    if argument and not argument.isdecimal():
        raise ValueError(f"expected a number of tokens after the colon, got {argument!r}")
    return Length(prior, int(argument) if argument else None)


def _classifier(
    prior: LanguageModel, argument: str, *, output: Output, trust_remote_code: bool
) -> Reward:
    path, colon, label = argument.rpartition(":")
    if not colon:
        path, label = argument, ""
    classifier = SequenceClassifier.from_pretrained(
        path, label or None, output=output, device=prior.device, trust_remote_code=trust_remote_code
    )
    return TextReward(classifier, prior, name=f"classifier {argument}")


def _function(argument: str) -> Callable[..., Any]:
    """A function of a file or of a module, which may have an `upper_bound`."""
    place, _, name = argument.rpartition(":")
    if not place:
        raise ValueError(f"expected FILE.py:NAME or MODULE:NAME after the colon, got {argument!r}")
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does when it runs
        raise ValueError(f"cannot import {place}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(
            f"expected a function {name!r} in {place}, which has {', '.join(_functions(module)) or 'none'}"
        )
    return _saying_whose(function, argument)


def _saying_whose(function: Callable[..., Any], argument: str) -> Callable[..., Any]:
    """A function of the user's, whose own errors are told as such."""

    @wraps(function)
    def named(*args: Any) -> Any:
        try:
            return function(*args)
        except (Exception, SystemExit) as error:  # it must not end the script as if all were well
            raise LikelihoodError(
                f"the function {argument} raised {type(error).__name__}: {error}"
            ) from error

    return named


def _run(path: Path) -> ModuleType:
    """A file as a module, with what stands beside it importable."""
    spec = importlib.util.spec_from_file_location(f"reward_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None  # there is one for every name that ends with .py
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _functions(module: ModuleType) -> list[str]:
    return [
        name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    ]


def _token_function(prior: LanguageModel, argument: str) -> Reward:
    function = _function(argument)
    return TokenReward(function, prior, upper_bound=getattr(function, "upper_bound", None))


def _fluency(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    likelihood = TextLikelihood.from_pretrained(
        argument, device=prior.device, trust_remote_code=trust_remote_code
    )
    return TextReward(likelihood, prior, name=f"fluency {argument}")


def _expert(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    expert = load_prior(
        argument,
        max_new_tokens=prior.max_new_tokens,
        temperature=prior.temperature,
        dtype="float32",
        device=str(prior.device),
        trust_remote_code=trust_remote_code,
    )
    return Expert(expert, prior)


def _preferences(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    folder, _, aggregation = argument.partition(":")
    if encoder := named_encoder(folder):
        print(f"the reward in {folder} is of the encoder {encoder}, which is loaded")
    posterior = RewardPosterior.load(
        folder, saved_features(folder, prior, trust_remote_code=trust_remote_code)
    )
    return TextReward(
        UncertainReward(posterior, aggregation or "lower-bound"), prior, name=f"reward {argument}"
    )


def _preference_files(argument: str) -> dict[str, Path]:
    folder, _, _ = argument.partition(":")
    try:
        encoder = named_encoder(folder)
    except ValueError:
        encoder = None  # said when the reward is made
    return checkpoint_files(Path(folder)) | (
        {} if encoder is None else checkpoint_files(Path(encoder), "encoder/")
    )


def _code_files(argument: str) -> dict[str, Path]:
    return code_files(argument.rpartition(":")[0])


def _classifier_files(argument: str) -> dict[str, Path]:
    return checkpoint_files(Path(argument.rpartition(":")[0] or argument))


REWARDS: dict[str, RewardEntry] = {
    "vader": RewardEntry(_vader, "sentiment of prompt and response together, from -1 to 1"),
    "words": RewardEntry(
        lambda prior, argument: _pattern(prior, Pattern.of_words(argument.split(","))),
        "1 for a response with one of some words, else 0",
        "WORD,WORD",
    ),
    "regex": RewardEntry(
        lambda prior, argument: _pattern(prior, Pattern(argument, ignore_case=False)),
        "1 for a response in which a regular expression is found, else 0",
        "EXPRESSION",
    ),
    "function": RewardEntry(
        lambda prior, argument: TextReward(_function(argument), prior),
        "a function of yours: takes a list of texts, prompt and response together, and returns as many numbers",
        "FILE.py:NAME",
        files=_code_files,
        runs=True,
    ),
    "token-function": RewardEntry(
        _token_function,
        "a function of yours: takes token ids [..., N, T] and where they are no padding, and returns rewards [..., N]",
        "FILE.py:NAME",
        files=_code_files,
        runs=True,
    ),
    "length": RewardEntry(
        _length, "tokens of the response; with a target, minus how far it is from that", "[TOKENS]"
    ),
    "classifier": RewardEntry(
        partial(_classifier, output="log-prob"),
        "log-probability of a label of a Hugging Face sequence classifier, nats",
        "PATH:LABEL",
        loads_network=True,
        files=_classifier_files,
    ),
    "classifier-logit": RewardEntry(
        partial(_classifier, output="logit"),
        "its logit; of a reward model, which has one, without the label",
        "PATH:LABEL",
        loads_network=True,
        files=_classifier_files,
    ),
    "preferences": RewardEntry(
        _preferences,
        f"a reward that `experiments.rlhf` inferred: {', '.join(AGGREGATIONS)} (default lower-bound)",
        "RUN/reward[:AGGREGATION]",
        loads_network=True,
        files=_preference_files,
    ),
    "fluency": RewardEntry(
        _fluency,
        "log-likelihood by the token of the text under another language model, nats",
        "PATH",
        loads_network=True,
        files=lambda argument: checkpoint_files(Path(argument)),
    ),
    "expert": RewardEntry(
        _expert,
        "log-likelihood of the response under one with the prior's tokens, nats",
        "PATH",
        loads_network=True,
        files=prior_files,
    ),
}
"""By name, what makes evidence when called with the prior's language model and the argument after the colon."""


def usage(name: str, argument: str) -> str:
    """How a reward is named, with its argument."""
    optional = argument.startswith("[")
    return f"{name}[:{argument[1:]}" if optional else f"{name}:{argument}" if argument else name


HELP = "r, or several that add up, each [WEIGHT*]NAME[:ARGUMENT].\n\n" + "\n\n".join(
    f"{usage(name, reward.argument)}: {reward.summary}" for name, reward in REWARDS.items()
)
