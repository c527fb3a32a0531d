"""Proposal of `--sample`: a saved guide, a language model, or a guide that needs no training."""

import json
from pathlib import Path
from typing import Any

from experiments.shared.refusals import FAULTS, blamed
from experiments.shared.training import build_guide
from experiments.steer.arguments import Steer
from guides import GUIDES, Fixed, Guide
from guides.guide import GUIDE_FILE, OtherGuideError
from model import LanguageModel, Prompts
from model.common.digests import DamagedFileError, check_digests
from model.networks.source import PretrainedError
from model.prior.named_priors import load_prior


def read_proposal(args: Steer, prior: LanguageModel, prompts: Prompts) -> Guide | None:
    """Read `--proposal`; by default `--guide` if it needs no training, else None for the prior."""
    if args.proposal is None:
        if GUIDES[args.guide].trains:
            return None
        return build_guide(args.guide, args.guide_options, prior, prompts)
    with blamed(f"--proposal {args.proposal}", FAULTS):
        if (args.proposal / GUIDE_FILE).is_file():
            return load_guide(args.proposal, prior)
        return Fixed(load_prior(str(args.proposal), **args.loading))


def load_guide(folder: Path, prior: LanguageModel) -> Guide:
    """Load a guide that `save_guide` wrote; exit if it is damaged or of another prior."""
    record = _read_record(folder)
    if record.get("vocabulary") not in (None, prior.vocabulary):
        problem = "is of a guide whose tokenizer has other entries than the prior's"
        reason = "its token ids would be other words. Name the prior of that run."
        raise SystemExit(f"{folder} {problem}: {reason}")
    guide = build_guide(record["guide"], record["options"], prior, prior.encode(record["prompts"]))
    try:
        guide.load_pretrained(folder)
    except (OtherGuideError, PretrainedError) as error:
        fix = " Name the prior of that run." if isinstance(error, OtherGuideError) else ""
        raise SystemExit(f"{error}{fix}") from error
    return guide


def _read_record(folder: Path) -> dict[str, Any]:
    """Record beside a saved guide; exits if the record is damaged."""
    try:
        check_digests(folder)
        record = json.loads((folder / GUIDE_FILE).read_bytes())
        types = {"options": dict, "prompts": list}
        is_whole = all(isinstance(record[name], kind) for name, kind in types.items())
        is_whole = is_whole and record["guide"] in GUIDES
    except DamagedFileError as error:
        raise SystemExit(str(error)) from error
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        expected = "expected name, options and prompts of a guide as JSON"
        raise SystemExit(f"{folder / GUIDE_FILE} is damaged: {expected}")
    return record
