"""A saved guide with the record from which the guide is built again."""

import json
from pathlib import Path
from typing import Any

from guides.guide import Guide
from model import Prompts
from model.common.digests import saved_together

GUIDE_FILE = "guide.json"
"""Name of the record beside a saved guide."""
Options = dict[str, Any]


def save_guide(folder: Path, guide: Guide, name: str, options: Options, prompts: Prompts) -> None:
    """Save a guide in its own format, with the name, options, prompts and vocabulary behind it."""
    record: Options = {"guide": name, "options": options, "prompts": prompts.texts}
    record["vocabulary"] = prompts.vocabulary
    with saved_together(folder) as new:
        guide.save_pretrained(new)
        (new / GUIDE_FILE).write_text(json.dumps(record, indent=2) + "\n")
