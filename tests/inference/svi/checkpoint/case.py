"""A fit of a few parameters, for tests of its checkpoints."""

from guides import MeanField
from inference import FusedOptimizer, LeaveOneOut_ELBO
from model import AlignmentModel, LanguageModel, TextReward
from tests.inference.conftest import parameters_of, quiet
from tests.model.tiny import tiny

STEPS = 4


def kindness(texts):
    return [float("a" in text) for text in texts]


class Case:
    """Fit of a few parameters; each argument replaces one part."""

    def __init__(self, **other):
        prior = other.pop("prior", tiny)
        self.prior = prior() if callable(prior) and not isinstance(prior, LanguageModel) else prior
        self.reward = other.pop("reward", kindness)
        self.beta = other.pop("beta", 0.5)
        self.prompts = other.pop("prompts", ["a", "b"])
        self.guide = other.pop("guide", MeanField)
        self.objective = other.pop("objective", lambda: LeaveOneOut_ELBO(4))
        self.optimizer = other.pop("optimizer", lambda: FusedOptimizer(options={"lr": 0.1}))
        self.options = other

    def run(self, folder, num_steps=STEPS, *, resume=False, **options):
        prompts, reward = self.prior.encode(self.prompts), self.reward
        reward = reward if isinstance(reward, dict) else TextReward(reward, self.prior)
        model = AlignmentModel(self.prior, reward, self.beta)
        guide = self.guide(self.prior, prompts)
        options = {"checkpoint_folder": folder, "checkpoint_every": 1} | self.options | options
        options |= {"objective": self.objective(), "optimizer": self.optimizer()}
        quiet(model, guide, prompts, num_steps, resume=resume, **options)
        return parameters_of(guide)
