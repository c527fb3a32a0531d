"""Judged responses as token ids, which a guide can score: the base of pairs and of labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from model import LanguageModel, Prompts
from model.common.checks import instance
from model.common.texts import quoted
from model.preferences import PreferenceError
from model.preferences.comparisons import check_outcome


@dataclass(frozen=True, eq=False)
class Judgements(ABC):
    """C judgements of responses to a prompt, C at least 1, with an outcome each.

    Attributes:
        prompts: C prompts.
        response: `[R, C, T]`, token ids of the R responses of each judgement.
        outcome: `[C]`, `FIRST`, `SECOND` or `TIE`.
        weight: `[C]`, number of times that each judgement counts; None for once.
        log_prior: `[R, C]`, log p0 of the responses, nats, once `scored`; else None.
    """

    prompts: Prompts
    response: Tensor
    outcome: Tensor
    weight: Tensor | None = None
    log_prior: Tensor | None = None

    num_responses: ClassVar[int]
    """R, number of responses of a judgement."""

    def __post_init__(self) -> None:
        shape, count = tuple(instance("response", self.response, Tensor).shape), len(self.prompts)
        sides = self.num_responses
        if len(shape) != 3 or shape[:2] != (sides, count):
            raise ValueError(f"response has shape {shape}, expected ({sides}, {count}, T)")
        check_outcome(self.outcome, count)
        if self.weight is not None and self.weight.shape != (count,):
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}, expected ({count},)")

    @classmethod
    @abstractmethod
    def of(cls, preferences: Sequence[Any], language_model: LanguageModel) -> Self:
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
        weight = None if self.weight is None else self.weight[index]
        log_prior = None if self.log_prior is None else self.log_prior[:, index]
        return replace(
            self,
            prompts=self.prompts[rows],
            response=self.response[:, index],
            outcome=self.outcome[index],
            weight=weight,
            log_prior=log_prior,
        )

    @torch.no_grad()
    def scored(self, prior: LanguageModel) -> Self:
        """The same judgements with log p0 of the responses: no step reads the prior again."""
        return replace(self, log_prior=prior(self.prompts).log_prob(self.response).double())


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
    space, limit = language_model.space, language_model.max_new_tokens
    rows = language_model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    response = torch.full((len(rows), limit), space.pad_id)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if len(row) > limit:
            raise PreferenceError(
                f"{places[number]}: the response {quoted(text)} has {len(row)} tokens, more "
                f"than max_new_tokens={limit}: make the language model with more, or leave it out"
            )
        whole = [*row, int(space.end_ids[0])][:limit]
        response[number, : len(whole)] = torch.tensor(whole)
    return response
