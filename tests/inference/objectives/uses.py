"""Names of objectives: those of this project, and one for each use of a guide.

Tests of guides and of scripts run one for each use. All objectives are in `test_matrix.py`.
"""

from inference import OBJECTIVES, ResponseObjective

OURS = sorted(name for name in OBJECTIVES if isinstance(OBJECTIVES[name](), ResponseObjective))


def use_of_a_guide(entry):
    """Class of an objective, and properties that change what an objective does with a guide."""
    objective = entry()
    repeats = getattr(objective, "epochs", 1) > 1
    return type(objective), repeats, entry.needs_hidden, entry.needs_twist, entry.max_prompts


ONE_OF_EACH_USE = list({use_of_a_guide(entry): name for name, entry in OBJECTIVES.items()}.values())
