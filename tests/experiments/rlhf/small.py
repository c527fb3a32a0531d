"""Small arguments, a gold reward and preferences for the tests of `experiments.rlhf`."""

import torch

from experiments.rlhf.options import RLHF
from model import vader_sentiment
from model.preferences import Preference

STUDY = {"num_preferences": (20, 60), "seeds": 2, "draws": 200, "min_effective": 10, "betas": 12}
REWARD = {"components": 8, "reward_samples": 8, "simulations": 10}
FIT = {"steps": 2, "particles": 4, "samples": 16, "max_new_tokens": 4, "threads": 1}
SMALL = RLHF(**STUDY, **REWARD, **FIT)


def gold(texts):
    return torch.tensor(vader_sentiment(texts), dtype=torch.float64)


def prefer_longer(count, ties=0):
    """Preferences for the longer text, after two prompts; the last ones are ties."""
    texts = ["good", "bad", "very good", "not dull", "very very bad", "dull"]
    pairs = [
        (f"the {noun} was", f" {a}", f" {b}")
        for noun in ("film", "plot")
        for a in texts
        for b in texts
        if len(a) > len(b)
    ]
    return [
        Preference(*pair, tie=index >= count - ties) for index, pair in enumerate(pairs[:count])
    ]
