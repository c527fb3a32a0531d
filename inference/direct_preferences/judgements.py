"""Judged responses as token ids, which a guide can score: pairs, labelled responses, lists."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from model import LanguageModel, Prompts
from model.common.checks import first_index, instance
from model.common.texts import quoted
from model.preferences import (
    FIRST,
    SECOND,
    TIE,
    Judged,
    Preference,
    PreferenceError,
    Ranking,
    encode_prompts,
)
from model.preferences.comparisons import check_outcome, check_scores, listed, padded_scores
from model.preferences.data import names


@dataclass(frozen=True, eq=False)
class Judgements(ABC):
    """C judgements of responses to a prompt, C at least 1, with an outcome each.

    Attributes:
        prompts: C prompts.
        response: `[R, C, T]`, token ids of the R responses of each judgement.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`.
        weight: `[C]`, number of times that each judgement counts; None for once.
        offset: `[C]`, by which the reward of the chosen response is to exceed that of the other
            (ODPO), for pairs; None for 0.
        log_prior: `[R, C]`, log p0 of the responses, nats, once `scored`; else None.
    """

    prompts: Prompts
    response: Tensor
    outcome: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None
    log_prior: Tensor | None = None

    num_responses: ClassVar[int | None]
    """R, number of responses of a judgement; None for any number from two."""

    def __post_init__(self) -> None:
        shape, count = tuple(instance("response", self.response, Tensor).shape), len(self.prompts)
        sides = self.num_responses or max(2, *shape[:1])
        if len(shape) != 3 or shape[:2] != (sides, count):
            raise ValueError(f"response has shape {shape}, expected ({sides}, {count}, T)")
        self.check_outcome()
        expected: dict[str, tuple[int, ...]]
        expected = {"weight": (count,), "offset": (count,), "log_prior": (sides, count)}
        for name, shape in expected.items():
            if (value := getattr(self, name)) is None:
                continue
            if instance(name, value, Tensor).shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}")
            is_odd = ~value.isfinite() | (value < 0 if name == "weight" else False)
            if (place := first_index(is_odd)) is not None:
                numbers = "finite numbers" + " of at least 0" * (name == "weight")
                raise ValueError(f"{name} is {value[place]:g} at index {place}, expected {numbers}")
        if self.offset is not None and self.num_responses != 2:
            raise ValueError(f"offset is of pairs, got {type(self).__name__}: leave it out")

    def check_outcome(self) -> None:
        """Refuse impossible outcomes."""
        check_outcome(self.outcome, len(self))

    @classmethod
    @abstractmethod
    def of(cls, preferences: Sequence[Judged], language_model: LanguageModel) -> Self:
        """Encode preferences.

        Raises:
            PreferenceError: with file and line, or number, of the preference, if a response does
                not fit into `max_new_tokens`, or is not the text of its own token ids.
        """

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: Sequence[int]) -> Self:
        """The judgements at `rows`."""
        index = torch.tensor(list(rows), device=self.outcome.device)
        numbers = {
            name: getattr(self, name) for name in ("outcome", "weight", "offset", "log_prior")
        }
        own = {name: each[..., index] for name, each in numbers.items() if each is not None}
        return replace(self, prompts=self.prompts[rows], response=self.response[:, index], **own)

    @torch.no_grad()
    def scored(self, prior: LanguageModel) -> Self:
        """The same judgements with log p0 of the responses: no step reads the prior again."""
        return replace(self, log_prior=prior(self.prompts).log_prob(self.response))


def encode(
    prompts: Prompts,
    responses: Sequence[Sequence[str]],
    language_model: LanguageModel,
    places: Sequence[str],
) -> Tensor:
    """Token ids `[R, C, T]` of R texts for each of C prompts, with their end; see `of`.

    `places` are C names in errors.
    """
    sides = [_encoded(texts, language_model, places) for texts in responses]
    response = torch.stack(sides).to(prompts.ids.device)
    texts = language_model.decode(response, prompts)
    for number, (place, prompt) in enumerate(zip(places, prompts.texts, strict=True)):
        for side, own_responses in enumerate(responses):
            own = prompt + own_responses[number]
            if texts[side][number] != own:
                raise PreferenceError(
                    f"{place}: the token ids of the response stand for "
                    f"{quoted(texts[side][number])}, expected {quoted(own)}. Does the response "
                    "begin in the middle of a word, without its leading space?"
                )
    return response


def _encoded(texts: Sequence[str], language_model: LanguageModel, places: Sequence[str]) -> Tensor:
    """Token ids of M responses with their end, `[M, T]`."""
    limit = language_model.max_new_tokens
    rows = language_model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for row, text, place in zip(rows, texts, places, strict=True):
        if len(row) > limit:
            raise PreferenceError(
                f"{place}: the response {quoted(text)} has {len(row)} tokens, more "
                f"than max_new_tokens={limit}: make the language model with more, or leave it out"
            )
    return language_model.space.of_rows(rows)


@dataclass(frozen=True, eq=False)
class ResponsePairs(Judgements):
    """C comparisons of two responses to a prompt; see `Judgements`.

    pairs = ResponsePairs.of(read_preferences("preferences.jsonl"), prior)
    minibatch = pairs[[0, 1, 2]]
    """

    num_responses: ClassVar[int] = 2

    @classmethod
    def of(cls, preferences: Sequence[Judged], language_model: LanguageModel) -> Self:
        """Encode preferences, the chosen response first; see `Judgements.of`."""
        pairs = listed(preferences, Preference)
        prompts = encode_prompts(pairs, language_model)
        sides = [[each.chosen for each in pairs], [each.rejected for each in pairs]]
        response = encode(prompts, sides, language_model, names(pairs))
        outcome = torch.tensor([TIE if each.tie else FIRST for each in pairs])
        return cls(prompts, response, outcome.to(prompts.ids.device))


@dataclass(frozen=True, eq=False)
class ResponseLabels(Judgements):
    """C labelled responses; see `Judgements`. The outcome `FIRST` is desirable, `SECOND` is not.

    labels = ResponseLabels.of_texts(["The film was"], [" a joy."], [True], prior)
    program = PreferenceProgram(guide, prior, beta=0.1, likelihood="kto")
    """

    num_responses: ClassVar[int] = 1

    @classmethod
    def of(cls, preferences: Sequence[Judged], language_model: LanguageModel) -> Self:
        """Encode preferences, the chosen responses as desirable and the others as undesirable."""
        pairs = ResponsePairs.of(preferences, language_model)
        turned = torch.where(pairs.outcome == TIE, TIE, 1 - pairs.outcome)
        return cls(
            pairs.prompts[[*range(len(pairs))] * 2],
            pairs.response.flatten(0, 1)[None],
            torch.cat([pairs.outcome, turned]),
        )

    @classmethod
    def of_texts(
        cls,
        prompts: Sequence[str | list[dict[str, Any]]],
        responses: Sequence[str],
        is_desirable: Sequence[bool],
        language_model: LanguageModel,
    ) -> Self:
        """Encode texts with their labels; errors as in `of`."""
        if not len(prompts) == len(responses) == len(is_desirable) > 0:
            raise PreferenceError(
                f"there are {len(prompts)} prompts, {len(responses)} responses and "
                f"{len(is_desirable)} labels, expected one each, and at least one"
            )
        for number, label in enumerate(is_desirable):
            if label not in (0, 1):  # the text "False" is true
                expected = "expected True or False, or 1 or 0"
                fault = f"the label of preference {number} is {quoted(label)}"
                raise PreferenceError(f"{fault}, {expected}")
        encoded = language_model.encode(list(prompts))
        places = [f"preference {number}" for number in range(len(prompts))]
        response = encode(encoded, [responses], language_model, places)
        outcome = torch.tensor([FIRST if each else SECOND for each in is_desirable])
        return cls(encoded, response, outcome.to(encoded.ids.device))


@dataclass(frozen=True, eq=False)
class ResponseLists(Judgements):
    """C lists of up to R responses to a prompt; see `Judgements`. The outcome is a score of each.

    lists = ResponseLists.of(read_judged("rankings.jsonl"), prior)
    program = PreferenceProgram(guide, prior, beta=0.1, likelihood="plackett-luce")

    `outcome` is `[R, C]`, -inf at the places of a list with fewer than R responses. There the first
    response of the list fills `response`.
    """

    num_responses: ClassVar[int | None] = None

    def check_outcome(self) -> None:
        scores = instance("outcome", self.outcome, Tensor)
        if scores.shape != self.response.shape[:2]:
            shapes = f"shape {tuple(scores.shape)}, expected {tuple(self.response.shape[:2])}"
            raise ValueError(f"outcome has {shapes}")
        check_scores(scores.T)

    @classmethod
    def of(cls, preferences: Sequence[Judged], language_model: LanguageModel) -> Self:
        """Encode rankings; see `Judgements.of`."""
        lists = listed(preferences, Ranking)
        prompts, scores = encode_prompts(lists, language_model), padded_scores(lists).T
        size, places = len(scores), names(lists)
        rows = [[*each.responses, *each.responses[:1] * size][:size] for each in lists]
        response = encode(prompts, list(zip(*rows, strict=True)), language_model, places)
        return cls(prompts, response, scores.to(prompts.ids.device))
