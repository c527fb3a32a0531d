"""Registry of rewards and factors for the command line: by name, with an argument after a colon.

REWARDS["words"](prior, "good,great")
FACTORS["marginal-likelihood"](prior, "RUN/reward", beta=0.1)
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from model.common.input_files import checkpoint_files, code_files
from model.factors.answer_likelihood import AnswerLikelihood
from model.factors.marginal_likelihood import MARGINAL, MarginalLikelihood
from model.likelihood import Factor, Reward
from model.preferences.aggregation import REWARD_AGGREGATIONS, UncertainReward
from model.preferences.reward_posterior import RewardPosterior, named_encoder, saved_features
from model.prior.language_model import LanguageModel
from model.prior.named_priors import load_prior, prior_files
from model.rewards.accuracy import Accuracy
from model.rewards.classifier import Output, SequenceClassifier
from model.rewards.expert import Expert
from model.rewards.length import Length, LengthLimit
from model.rewards.pattern import THINK, Format, Pattern
from model.rewards.repetition import Repetition
from model.rewards.text import TextReward
from model.rewards.text_likelihood import TextLikelihood
from model.rewards.tokens import TokenReward
from model.rewards.user_function import user_function
from model.rewards.vader import vader_sentiment


class RegistryEntry(NamedTuple):
    """An entry of `REWARDS` or of `FACTORS`. A call makes the reward or the factor.

    Attributes:
        make: takes the prior and the argument; the options below by keyword.
        summary: one line.
        argument: name of the argument; empty for no argument, in brackets if optional.
        loads_network: `make` takes `trust_remote_code`, permission to run a network's own code.
        takes_beta: `make` takes the model's `beta`.
        files: the files that an argument names; None if it names none.
        runs: True if the files are code.
    """

    make: Callable[..., Any]
    summary: str
    argument: str = ""
    loads_network: bool = False
    takes_beta: bool = False
    files: Callable[[str], dict[str, Path]] | None = None
    runs: bool = False

    def __call__(
        self,
        prior: LanguageModel,
        argument: str = "",
        *,
        beta: float | None = None,
        trust_remote_code: bool = False,
    ) -> Any:
        options: dict[str, Any] = {"beta": beta} if self.takes_beta else {}
        if self.loads_network:
            options["trust_remote_code"] = trust_remote_code
        return self.make(prior, argument, **options)


def usage(name: str, argument: str) -> str:
    """Name of a reward or factor with its argument, as on the command line."""
    if not argument:
        return name
    return f"{name}[:{argument[1:]}" if argument.startswith("[") else f"{name}:{argument}"


def _of_tokens(make: Callable[..., Reward], prior: LanguageModel, argument: str) -> Reward:
    """A reward with an optional number of tokens."""
    if argument and not argument.isdecimal():
        raise ValueError(f"expected a number of tokens after the colon, got {argument!r}")
    return make(prior, int(argument)) if argument else make(prior)


def _length_limit(prior: LanguageModel, argument: str) -> Reward:
    numbers = argument.split(",")
    if len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        raise ValueError(f"expected two numbers of tokens after the colon, got {argument!r}")
    return LengthLimit(prior, *map(int, numbers))


def _token_function(prior: LanguageModel, argument: str) -> Reward:
    function = user_function(argument)
    return TokenReward(function, prior, upper_bound=getattr(function, "upper_bound", None))


def _classifier(
    prior: LanguageModel, argument: str, *, output: Output, trust_remote_code: bool
) -> Reward:
    path, colon, label = argument.rpartition(":")
    if not colon:
        path, label = argument, ""
    options: dict[str, Any] = {"output": output, "trust_remote_code": trust_remote_code}
    load = SequenceClassifier.from_pretrained
    classifier = load(path, label or None, device=prior.device, **options)
    return TextReward(classifier, prior, name=f"classifier {argument}")


def _classifier_files(argument: str) -> dict[str, Path]:
    return checkpoint_files(Path(argument.rpartition(":")[0] or argument))


def _fluency(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    options: dict[str, Any] = {"device": prior.device, "trust_remote_code": trust_remote_code}
    likelihood = TextLikelihood.from_pretrained(argument, **options)
    return TextReward(likelihood, prior, name=f"fluency {argument}")


def _expert(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    options = {"max_new_tokens": prior.max_new_tokens, "temperature": prior.temperature}
    permission = {"trust_remote_code": trust_remote_code}
    return Expert(load_prior(argument, device=str(prior.device), **options, **permission), prior)


def _preferences(prior: LanguageModel, argument: str, *, trust_remote_code: bool) -> Reward:
    folder, _, aggregation = argument.partition(":")
    if aggregation == MARGINAL:
        raise ValueError(f"{MARGINAL} is a factor, expected --factor {MARGINAL}:{folder}")
    posterior = _reward_posterior(folder, prior, trust_remote_code)
    reward = UncertainReward(posterior, aggregation or "lower-bound")
    return TextReward(reward, prior, whole=True, name=f"reward {argument}")


def _marginal_likelihood(
    prior: LanguageModel, folder: str, *, beta: float, trust_remote_code: bool
) -> Factor:
    return MarginalLikelihood(_reward_posterior(folder, prior, trust_remote_code), prior, beta)


def _reward_posterior(
    folder: str, prior: LanguageModel, trust_remote_code: bool
) -> RewardPosterior:
    if encoder := named_encoder(folder):
        print(f"the reward in {folder} is of the encoder {encoder}, which is loaded")
    features = saved_features(folder, prior, trust_remote_code=trust_remote_code)
    return RewardPosterior.load(folder, features)


def _preference_files(argument: str) -> dict[str, Path]:
    folder, _, _ = argument.partition(":")
    try:
        encoder = named_encoder(folder)
    except ValueError:  # raised again when the reward is made
        encoder = None
    files = checkpoint_files(Path(folder))
    return files if encoder is None else files | checkpoint_files(Path(encoder), "encoder/")


_network_entry = partial(RegistryEntry, loads_network=True)
_code_entry = partial(RegistryEntry, argument="FILE.py:NAME", files=code_files, runs=True)

REWARDS: dict[str, RegistryEntry] = {
    "vader": RegistryEntry(
        lambda prior, _: TextReward(vader_sentiment, prior),
        "sentiment of prompt and response together, from -1 to 1",
    ),
    "words": RegistryEntry(
        lambda prior, words: TextReward(Pattern.of_words(words.split(",")), prior, whole=False),
        "1 for a response with one of the listed words, else 0",
        "WORD,WORD",
    ),
    "regex": RegistryEntry(
        lambda prior, regex: TextReward(Pattern(regex, ignore_case=False), prior, whole=False),
        "1 for a response that matches a regular expression, else 0",
        "EXPRESSION",
    ),
    "accuracy": RegistryEntry(
        lambda prior, column: TextReward(Accuracy(column or "answer"), prior),
        "1 for a response whose final answer is the reference answer in a column of the prompts "
        "(default answer), else 0",
        "[COLUMN]",
    ),
    "format": RegistryEntry(
        lambda prior, regex: TextReward(Format(regex or THINK), prior, whole=False),
        "1 for a response that matches a regular expression as a whole, else 0; by default "
        "reasoning in think tags before the answer",
        "[EXPRESSION]",
    ),
    "repetition": RegistryEntry(
        partial(_of_tokens, Repetition),
        "minus the share of repeated runs of some tokens in the response (default three tokens)",
        "[TOKENS]",
    ),
    "length-limit": RegistryEntry(
        _length_limit,
        "0 for a response shorter than the limit by a margin, -1 at the limit and beyond, linear "
        "in between",
        "TOKENS,MARGIN",
    ),
    "function": _code_entry(
        lambda prior, place: TextReward(user_function(place), prior),
        "your own function: takes a list of texts, prompt and response together, and returns a "
        "number for each text; or has the parameters of a reward function of TRL, verl or "
        "verifiers, and sees prompts and columns",
    ),
    "token-function": _code_entry(
        _token_function,
        "your own function: takes token ids [..., N, T] and a mask of the tokens before the "
        "padding, and returns rewards [..., N]",
    ),
    "length": RegistryEntry(
        partial(_of_tokens, Length),
        "number of tokens of the response; with a target, minus the distance to the target",
        "[TOKENS]",
    ),
    "classifier": _network_entry(
        partial(_classifier, output="log-prob"),
        "log-probability of a label under a Hugging Face sequence classifier, nats",
        "PATH:LABEL",
        files=_classifier_files,
    ),
    "classifier-logit": _network_entry(
        partial(_classifier, output="logit"),
        "logit of a label under a Hugging Face sequence classifier; a reward model has no label",
        "PATH:LABEL",
        files=_classifier_files,
    ),
    "preferences": _network_entry(
        _preferences,
        f"reward inferred by `experiments.rlhf`: {', '.join(REWARD_AGGREGATIONS)} "
        "(default lower-bound)",
        "RUN/reward[:AGGREGATION]",
        files=_preference_files,
    ),
    "fluency": _network_entry(
        _fluency,
        "log-likelihood per token of the text under another language model, nats",
        "PATH",
        files=lambda argument: checkpoint_files(Path(argument)),
    ),
    "expert": _network_entry(
        _expert,
        "log-likelihood of the response under a language model with the prior's tokens, nats",
        "PATH",
        files=prior_files,
    ),
}
"""Rewards by name: a call takes the prior and the argument after the colon."""

FACTORS: dict[str, RegistryEntry] = {
    MARGINAL: _network_entry(
        _marginal_likelihood,
        "log mean_s exp(r_s/beta) over the draws r_s of a reward inferred by `experiments.rlhf`",
        "RUN/reward",
        takes_beta=True,
        files=_preference_files,
    ),
    "answer-likelihood": RegistryEntry(
        lambda prior, column: AnswerLikelihood(prior, column or "answer"),
        "log-probability under the prior that an answer in a column of the prompts (default "
        "answer) follows the response",
        "[COLUMN]",
    ),
}
"""Factors in nats by name: a call takes the prior, the argument and the model's beta."""
