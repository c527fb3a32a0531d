"""The same responses, token for token: two language models that can score each other's."""

from typing import Any

from model.prior.language_model import LanguageModel


def check_same_responses(name: str, other: LanguageModel, prior: LanguageModel, fix: str) -> None:
    """Refuse a language model whose responses are not those of the prior.

    Args:
        name: the other language model in words, for the error.
        other: the other language model.
        prior: p0.
        fix: the likely fix, the end of the error.

    Raises:
        ValueError: if vocabulary, end ids, padding or length differ.
    """
    settings = _settings(other)
    for setting, expected in _settings(prior).items():
        if settings[setting] != expected:
            is_short = not isinstance(expected, dict)
            values = f": {settings[setting]} where the prior has {expected}" if is_short else ""
            raise ValueError(f"{name} differs from the prior in {setting}{values}. {fix}")


def _settings(language_model: LanguageModel) -> dict[str, Any]:
    """The properties that language models with the same responses share."""
    return {
        "max_new_tokens": language_model.max_new_tokens,
        "end_ids": language_model.end_ids,
        "pad_id": language_model.pad_id,
        "the size of the vocabulary": language_model.vocab_size,
        "the tokenizer's entries": language_model.tokenizer.get_vocab(),
    }
