"""A paper of the literature: its claim, the command that tests the claim, and the findings."""

import shlex
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple


class Source(NamedTuple):
    """Text from which the claim and its equations were taken.

    Attributes:
        text: word for the text, explained on the page.
        arxiv: number at arXiv; None if there is none, or if the number is not certain.
    """

    text: str
    arxiv: str | None = None


paper, abstract = (partial(Source, text) for text in ("paper", "abstract"))


@dataclass(frozen=True)
class Paper:
    """Entry of the page.

    Attributes:
        title: authors, year and subject, the heading of the paper.
        claim: the claim in words of this project, with its limits.
        source: text that was read for the claim.
        command: script and arguments; `log_z --seed 1` is `python -m experiments.log_z --seed 1`.
            Default: the check of `experiments.identities` with the key of the paper.
        supports: parts of statements that the script prints. A finding with one of them supports
            the claim if the finding held. Default: all findings not named in `against`.
        against: parts of statements of findings that speak against the claim if they held.
        caveat: sentence on the page if a finding of `against` held: the limit of the claim.
    """

    title: str
    claim: str
    source: Source
    command: str = ""
    supports: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def script(self) -> str:
        """Name of the script in `experiments`."""
        return self.words[0]

    @property
    def words(self) -> list[str]:
        """Words of the command."""
        return shlex.split(self.command)
