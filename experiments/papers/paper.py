"""Papers of the literature: claim, the command that tests the claim, and the findings that count.

The entries are the YAML files of this folder; their keys are the attributes of `Paper`.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
SUBJECTS = ("inference", "trainers", "targets", "preferences", "sampling")
"""Names of the files, in the order of the page."""


@dataclass(frozen=True)
class Paper:
    """Entry of the page.

    Attributes:
        title: authors, year and subject, the heading of the paper.
        claim: the claim in words of this project, with its limits.
        source: text from which the claim and its equations were taken, a word explained on the
            page, and the number at arXiv; no number if there is none or if it is not certain.
        command: script and arguments; `log_z --seed 1` is `python -m experiments.log_z --seed 1`.
            Default in a file: the check of `experiments.identities` with the key of the paper.
        supports: parts of statements that the script prints. A finding with one of them supports
            the claim if the finding held. Default: all findings not named in `against`.
        against: parts of statements of findings that speak against the claim if they held.
        caveat: sentence on the page if a finding of `against` held: the limit of the claim.
    """

    title: str
    claim: str
    source: str
    command: str
    supports: Sequence[str] = ()
    against: Sequence[str] = ()
    caveat: str = ""

    @property
    def script(self) -> str:
        """Name of the script in `experiments`."""
        return self.words[0]

    @property
    def words(self) -> list[str]:
        """Words of the command."""
        return shlex.split(self.command)


PAPERS: dict[str, Paper] = {
    key: Paper(**{"command": f"identities --only {key}"} | entry)
    for subject in SUBJECTS
    for key, entry in yaml.safe_load((FOLDER / f"{subject}.yaml").read_text("utf-8")).items()
}
"""Papers by key: the name of a method, or the first author and the year."""
