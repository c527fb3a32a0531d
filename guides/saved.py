"""Saved guides: the files of the family, the record from which to build the guide, a model card."""

import json
from pathlib import Path
from typing import Any
from warnings import warn

from guides.families import GUIDES
from guides.guide import Guide, Options, OtherGuideError, check_prior
from guides.model_card import CARD, ModelCard
from model import LanguageModel, Prompts
from model.common.checks import folder_path
from model.common.files import check_digests, read_record, saved_together

GUIDE_FILE = "guide.json"  # name of the record beside a saved guide


def save_guide(
    folder: Path,
    guide: Guide,
    name: str,
    options: Options,
    prompts: Prompts,
    card: ModelCard | None = None,
    *,
    temperature: float,
) -> None:
    """Save a guide in the format of its family, with a record and a model card.

    Args:
        folder: new or existing folder.
        guide: the guide to save.
        name: name of the family in `GUIDES`.
        options: options of the family, with which the guide was built.
        prompts: prompts of the training.
        card: facts of the model card; default, the name of the family alone.
        temperature: temperature of the prior of the training.
    """
    record: Options = {"guide": name, "options": options, "prompts": _as_given(prompts)}
    record["vocabulary"] = prompts.vocabulary
    record["temperature"] = temperature
    with saved_together(folder) as new:
        guide.save_pretrained(new)
        (new / GUIDE_FILE).write_text(json.dumps(record, indent=2) + "\n")
    write_card(folder, name, prompts, card)


def write_card(
    folder: Path,
    name: str,
    prompts: Prompts,
    card: ModelCard | None = None,
    *,
    is_network: bool = False,
) -> None:
    """Write the model card of a saved guide, in place of an earlier card.

    `is_network` is True for the folder of a network that is the guide merged with the prior.
    """
    library = "transformers" if is_network else GUIDES[name].library
    facts, given = card or ModelCard(), _as_given(prompts)
    text = facts.text(name, library, given, folder.name, is_network=is_network)
    with saved_together(folder) as new:
        (new / CARD).write_text(text, encoding="utf-8")


def load_guide(folder: str | Path, prior: LanguageModel) -> Guide:
    """Load a guide that `save_guide` wrote, for the prior with which the guide was trained.

        guide = load_guide("runs/steer-20250101-120000/guide", prior)
        response = guide.distribution(prior.encode(["The film was"])).sample((4,))

    Warns if the prior of the training had another temperature.

    Raises:
        OtherGuideError: if the guide is of a prior with other tokens or shapes, or its record is
            damaged. A prior with other weights of the same shapes is not noticed.
        DamagedFileError: if a file has changed since it was saved.
    """
    check_prior(prior)
    record = _read_record(folder_path("folder", folder))
    if record.get("vocabulary") not in (None, prior.vocabulary):
        problem = "is of a guide whose tokenizer has other entries than the prior's"
        reason = "its token ids would be other words. Name the prior of that run"
        raise OtherGuideError(f"{folder} {problem}: {reason}")
    if (temperature := record.get("temperature")) not in (None, prior.temperature):
        trained = f"the guide of {folder} was trained for a prior of temperature {temperature}"
        differs = f"not {prior.temperature}: prior and posterior are other distributions"
        warn(f"{trained}, {differs}. Make the prior with that temperature", stacklevel=2)
    prompts = prior.encode(record["prompts"])
    family = GUIDES[record["guide"]]
    guide = family(prior, prompts, **record["options"] | family.loaded_with)
    try:
        guide.load_pretrained(folder)
    except OtherGuideError as error:
        raise OtherGuideError(f"{error}. Name the prior of that run") from error
    return guide


def _as_given(prompts: Prompts) -> list[Any]:
    """Each prompt as encoded: a text, or the messages of a chat."""
    pairs = zip(prompts.texts, prompts.messages, strict=True)
    return [text if chat is None else [dict(message) for message in chat] for text, chat in pairs]


def _read_record(folder: Path) -> dict[str, Any]:
    """Record beside a saved guide, checked."""
    check_digests(folder)
    if not (folder / GUIDE_FILE).is_file():
        raise OtherGuideError(f"{folder} has no {GUIDE_FILE}, expected a folder of `save_guide`")
    kinds = {"guide": str, "options": dict, "prompts": list}
    if (record := read_record(folder / GUIDE_FILE, kinds)) is None:
        expected = "expected name, options and prompts of a guide as JSON"
        raise OtherGuideError(f"{folder / GUIDE_FILE} is damaged: {expected}")
    if (name := record["guide"]) not in GUIDES:
        expected = (
            f"expected one of {', '.join(GUIDES)}, or a family that is added to `GUIDES` first"
        )
        raise OtherGuideError(
            f"{folder / GUIDE_FILE} is of a guide of the family {name!r}, {expected}"
        )
    return record
