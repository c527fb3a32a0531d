"""All papers of the page, by key, in the order of the page."""

from experiments.papers.inference_papers import INFERENCE
from experiments.papers.paper import Paper
from experiments.papers.preference_papers import PREFERENCES
from experiments.papers.sampling_papers import SAMPLING
from experiments.papers.target_papers import TARGETS
from experiments.papers.trainer_papers import TRAINERS

PAPERS: dict[str, Paper] = INFERENCE | TRAINERS | TARGETS | PREFERENCES | SAMPLING
"""Papers by key: the name of a method, or the first author and the year."""
