"""Single responses with a label each, desirable or not: unpaired data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from inference.direct_preferences.judgements import Judgements, encode
from inference.direct_preferences.pairs import ResponsePairs
from model import LanguageModel
from model.preferences import FIRST, SECOND, TIE, Preference, PreferenceError


@dataclass(frozen=True, eq=False)
class ResponseLabels(Judgements):
    """C labelled responses; see `Judgements`. The outcome `FIRST` is desirable, `SECOND` is not.

    labels = ResponseLabels.of_texts(["The film was"], [" a joy."], [True], prior)
    program = PreferenceProgram(guide, prior, beta=0.1, likelihood="kto")
    """

    num_responses: ClassVar[int] = 1

    @classmethod
    def of(cls, preferences: Sequence[Preference], language_model: LanguageModel) -> Self:
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
        encoded = language_model.encode(list(prompts))
        places = [f"preference {number}" for number in range(len(prompts))]
        response = encode(encoded, [responses], language_model, places)
        outcome = torch.tensor([FIRST if each else SECOND for each in is_desirable])
        return cls(encoded, response, outcome.to(encoded.ids.device))
