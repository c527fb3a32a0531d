"""All papers of the page, by key, in the order of the page."""

from dataclasses import replace

from experiments.papers.inference_papers import INFERENCE
from experiments.papers.paper import Paper
from experiments.papers.preference_papers import PREFERENCES
from experiments.papers.sampling_papers import SAMPLING
from experiments.papers.target_papers import TARGETS
from experiments.papers.trainer_papers import TRAINERS

_ENTRIES = INFERENCE | TRAINERS | TARGETS | PREFERENCES | SAMPLING
PAPERS: dict[str, Paper] = {
    key: replace(paper, command=paper.command or f"identities --only {key}")
    for key, paper in _ENTRIES.items()
}
"""Papers by key: the name of a method, or the first author and the year."""
