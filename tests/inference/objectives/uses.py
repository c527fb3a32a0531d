"""Objectives that differ in what they do with a guide, one for each use, by name.

Tests of guides and of scripts run these. All objectives are in `test_matrix.py`.
"""

from inference import OBJECTIVES


def use_of_a_guide(entry):
    """Class of an objective, and properties that change what an objective does with a guide."""
    objective = entry()
    repeats = getattr(objective, "epochs", 1) > 1
    return type(objective), repeats, entry.needs_hidden, entry.needs_twist, entry.max_prompts


ONE_OF_EACH_USE = list({use_of_a_guide(entry): name for name, entry in OBJECTIVES.items()}.values())
