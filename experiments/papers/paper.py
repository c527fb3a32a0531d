"""A paper of the literature: its claim, the command that tests the claim, and the findings."""

import shlex
from dataclasses import dataclass
from enum import Enum


class Source(Enum):
    """Text from which the claim and its equations were taken."""

    PAPER = "paper"
    ABSTRACT = "abstract"
    SUMMARY = "summary"
    MEMORY = "memory"


PAPER, ABSTRACT, SUMMARY = Source.PAPER, Source.ABSTRACT, Source.SUMMARY


@dataclass(frozen=True)
class Paper:
    """Entry of the page.

    Attributes:
        title: authors, year and subject, the heading of the paper.
        claim: the claim in words of this project, with its limits.
        command: script and arguments; `identities --only dera` is `python -m
            experiments.identities --only dera`.
        arxiv: number at arXiv; None if there is none, or if the number is not certain.
        supports: parts of statements that the script prints. A finding with one of them supports
            the claim if the finding held. Default: all findings not named in `against`.
        against: parts of statements of findings that speak against the claim if they held.
        caveat: sentence on the page if a finding of `against` held: the limit of the claim.
        source: text that was read for the claim.
    """

    title: str
    claim: str
    command: str
    arxiv: str | None = None
    supports: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    caveat: str = ""
    source: Source = Source.MEMORY

    @property
    def script(self) -> str:
        """Name of the script in `experiments`."""
        return self.words[0]

    @property
    def words(self) -> list[str]:
        """Words of the command."""
        return shlex.split(self.command)
