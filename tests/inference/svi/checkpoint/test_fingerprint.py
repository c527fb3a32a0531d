"""Descriptions of fits: another fit is refused by the name of the difference, and no other."""

import argparse
import functools
import json
import logging
import operator
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from peft import LoraConfig
from pyro import poutine

from guides import FineTuned, LoRA, Twisted
from inference import FDivergence, FusedOptimizer, SquaredResidual, cosine
from inference.objectives.self_play import SelfPlay
from inference.svi.anneal import soften
from inference.svi.checkpoint.code_of_user import _targets, is_installed
from inference.svi.checkpoint.fingerprint import Fingerprint
from inference.svi.checkpoint.folder import CheckpointError
from model import (
    AlignmentModel,
    Constraint,
    LanguageModel,
    Pattern,
    TextReward,
    TokenReward,
    WeightedSum,
)
from tests.inference.svi.checkpoint.case import STEPS, Case, kindness
from tests.model.tiny import tiny


def moved(prior):
    with torch.no_grad():
        next(prior.network.parameters())[0, 0] += 1e-6
    return prior


def adapted(alpha):
    torch.manual_seed(0)
    prior, options = tiny(), {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    prior.network.add_adapter(LoraConfig(r=1, lora_alpha=alpha, **options))
    return LanguageModel(prior.network, prior.tokenizer, max_new_tokens=3)


def other_kindness(texts):
    return [float("b" in text) for text in texts]


class Weighted:
    def __init__(self, weight):
        self._weight = weight

    def __call__(self, texts):
        return [self._weight * len(text) for text in texts]


def with_default(weight):
    def reward(texts, weight=weight):
        return [weight * len(text) for text in texts]

    return reward


def with_closure(weight):
    return lambda texts: [weight * len(text) for text in texts]


def in_dict(weight):
    weights = {"a": weight}
    return lambda texts: [weights["a"] * len(text) for text in texts]


USERS = """
import functools
from types import ModuleType, SimpleNamespace
args = SimpleNamespace(weight={weight}, other=1.0)
_WEIGHTS = {{"a": {weight}}}
def named(text): return _WEIGHTS["a"]
def read(args): return args.weight
def of_settings(text): return args.other * read(args)
class Base:
    weight = {weight}
    def of_base(self): return {weight}
class Inherits(Base):
    def __call__(self, texts): return [self.weight for _ in texts]
def of_a_class(text): return Base().of_base()
def scaled(function):
    weight = {weight}
    @functools.wraps(function)
    def by_weight(text): return weight * function(text)
    return by_weight
@scaled
def decorated(text): return 1.0
def attribute(text): return attribute.weight
attribute.weight = {weight}
"""


def users_module(weight):
    """Module from a file of a user."""
    module = ModuleType("of_the_user")
    module.__file__ = "/of_the_user.py"
    exec(compile(USERS.format(weight=weight), module.__file__, "exec"), vars(module))
    package = ModuleType("package")
    package.__file__, package.inner = "/package/__init__.py", module
    return module, package


def through_a_module(weight):
    module, _ = users_module(weight)
    return lambda texts: [module.named(text) for text in texts]


def through_a_package(weight):
    _, package = users_module(weight)
    return lambda texts: [package.inner.named(text) for text in texts]


def in_a_function(name):
    def make(weight):
        function = getattr(users_module(weight)[0], name)
        return lambda texts: [function(text) for text in texts]

    return make


def network(weight):
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, weight)
    torch.nn.init.zeros_(layer.bias)
    return layer


def by_network(weight):
    """Reward with parameters that require an unused gradient, as in a new network."""
    layer = network(weight)
    return lambda texts: [layer(torch.ones(1)).item() for _ in texts]


class Pipeline:
    """Object that holds a network, as in an installed package."""

    __module__ = "transformers.pipelines.base"

    def __init__(self, weight):
        self.model = network(weight)

    def __call__(self, texts):
        return [self.model(torch.ones(1)).item() for _ in texts]


IN_CODE = {
    "attribute": Weighted,
    "default": with_default,
    "closure": with_closure,
    "dict in a closure": in_dict,
    "method": lambda weight: Weighted(weight).__call__,
    "partial": lambda weight: partial(with_default(1.0), weight=weight),
    "scale around the model": lambda weight: poutine.scale(kindness, scale=weight),
    "function of a module": through_a_module,
    "function of a package's module": through_a_package,
    **{
        name: in_a_function(name)
        for name in ("named", "of_settings", "of_a_class", "decorated", "attribute")
    },
    "class": lambda weight: users_module(weight)[0].Inherits(),
    "network": by_network,
    "network of a pipeline": Pipeline,
}


@pytest.mark.parametrize("make", IN_CODE.values(), ids=IN_CODE)
def test_rewards_differ_by_every_value_that_their_code_reads(make):
    """A reward that is built again is the same."""
    one, same, other = map(make, (1.0, 1.0, 2.0))
    assert not any(differences(one, same))
    assert all(differences(one, other))


@pytest.mark.parametrize(
    "member",
    [
        "weight = 1",
        "_w = [1]",
        "def f(s): return 1",
        "f = staticmethod(lambda: 1)",
        "f = property(lambda _: 1)",
        "f = functools.cached_property(lambda _: 1)",
    ],
)
@pytest.mark.parametrize("place", ["Base", "Inherits"])
def test_objects_differ_by_the_members_of_their_classes(member, place):
    def make(member):
        module, _ = users_module(1.0)
        bodies = {"Base": "pass", "Inherits": "pass"} | {place: member}
        exec(
            "class Base:\n    {Base}\nclass Inherits(Base):\n    {Inherits}".format(**bodies),
            vars(module),
        )
        return module.Inherits()

    one, same, other = make(member), make(member), make(member.replace("1", "2"))
    assert not any(differences(one, same))
    assert all(differences(one, other))


@pytest.mark.parametrize(
    "words",
    [["a", "c"], {"a", "c"}, {"a": 2.0, "b": 1.0}, {"a": 1.0}],
    ids=["list", "set", "dict", "fewer"],
)
def test_a_cache_may_be_empty_and_a_list_of_words_may_not_be_another(words):
    kind = type(words)
    before = Holder(_words={list: ["a", "b"], set: {"a", "b"}, dict: {"a": 1.0, "b": 1.0}}[kind])
    assert all(differences(before, Holder(_words=words)))
    assert not any(differences(before, Holder(_words=kind())))


class Holder:
    def __init__(self, **attributes):
        vars(self).update(attributes)


TWO = [Holder(a=1), Holder(a=2)]


def differences(one, other, part="model"):
    """Differences of a fit with the second object to one with the first, and the reverse."""
    fits = Fingerprint(**{part: one}), Fingerprint(**{part: other})
    return tuple(b.differences(a.to_json(), guide=part == "guide") for a, b in (fits, fits[::-1]))


@pytest.mark.parametrize("memory", [None, [1], {"a": Holder(b=1)}, {1}, ["word"] * 100])
def test_a_private_part_that_one_side_lacks_counts_unless_it_may_be_a_memory(memory):
    assert differences(Holder(), Holder(_memory=memory)) == ("", "")
    for part in (0.5, "strict", Holder(a=1), torch.ones(2), (1, 2)):
        missing, extra = differences(Holder(), Holder(_threshold=part))
        assert missing.startswith("no model.threshold")
        assert extra.startswith("model.threshold that is not there now")
    for part in (0.5, ["other"], torch.ones(2)):
        assert all(differences(Holder(_memory=memory), Holder(_memory=part)))


class Lazy:
    """Has a cache, and parts of many kinds that are there from the first call on."""

    def __init__(self, weight=1.0):
        self.weight, self._cache = weight, {}
        self._list = self._scale = None

    def __call__(self, texts):
        self._list, self._scale, self._last, self.last = [1], 0.5, len(texts), texts
        return [self._cache.setdefault(text, self.weight * len(text)) for text in texts]


def test_a_reward_may_fill_its_parts_in_the_fit_and_they_do_not_hide_the_reward(tmp_path):
    used = Lazy()
    for num_steps, reward in enumerate((used, used, Lazy(), used), 1):
        Case(reward=reward).run(tmp_path, num_steps, resume=True)
    with pytest.raises(CheckpointError, match=r"1\.0, got 2\.0 \(model\.\S*weight\)"):
        Case(reward=Lazy(2.0)).run(tmp_path, 5, resume=True)


def test_two_parts_that_were_one_object_may_not_differ_now():
    same, other = with_closure(1.0), with_closure(2.0)
    parts = (Holder(_one=same, _other=each) for each in (same, other))
    assert "no model.other.weight" in differences(*parts)[0]


def test_how_much_is_logged_is_no_part_of_the_fit():
    logger = logging.getLogger("tests.of.a.fingerprint")
    one = Fingerprint(model=lambda texts: logger.info(texts))
    logger.setLevel("ERROR")
    other = Fingerprint(model=lambda texts: logger.info(texts))
    assert not other.differences({**one.to_json(), "changed": []}, guide=False)


def test_keys_are_described_as_values_are():
    one, other = ({Method().score: 1.0, torch.float32: 2.0, 3: 4} for _ in range(2))
    assert not any(differences(one, other))


class Method:
    def score(self, texts):
        return [1.0 for _ in texts]


OTHERS = {
    "prompts": ({}, {"prompts": ["a", "c"]}, "other prompts"),
    "beta": ({}, {"beta": 0.25}, r"0\.5, got 0\.25 \(model\.beta\)"),
    "weights of the prior": (
        {},
        {"prior": moved(tiny())},
        r"other model\.prior\.network\.frozen weights",
    ),
    "length": ({}, {"prior": tiny(max_new_tokens=2)}, r"max_new_tokens"),
    "temperature": (
        {},
        {"prior": tiny(temperature=0.5)},
        r"1\.0, got 0\.5 \(model\.prior\.temperature\)",
    ),
    "end ids": ({}, {"prior": tiny(end_ids=[0, 3])}, r"end_ids"),
    "reward": ({}, {"reward": other_kindness}, r"function"),
    "pattern": (
        {"reward": Pattern("a")},
        {"reward": Pattern("b")},
        r"got re\.compile\('b', .* \(model\.\S*pattern\)",
    ),
    "divergence": (
        {"objective": lambda: FDivergence("forward-kl", 4)},
        {"objective": lambda: FDivergence("jensen-shannon", 4)},
        r"other objective|\(objective",
    ),
    "objective": (
        {},
        {"objective": lambda: SquaredResidual(4)},
        r"LeaveOneOut_ELBO, got SquaredResidual \(objective\)",
    ),
    "learning rate": (
        {},
        {"optimizer": lambda: FusedOptimizer(options={"lr": 0.2})},
        r"0\.1, got 0\.2 \(optimizer\.\S*lr\)",
    ),
    "optimiser": (
        {},
        {"optimizer": lambda: FusedOptimizer(torch.optim.AdamW, {"lr": 0.1})},
        r"Adam, got AdamW \(optimizer",
    ),
    "rate of an optimiser of Pyro": (
        {"optimizer": lambda: pyro.optim.Adam({"lr": 0.1})},
        {"optimizer": lambda: pyro.optim.Adam({"lr": 0.2})},
        r"0\.1, got 0\.2 \(optimizer\.\S*lr\)",
    ),
    "schedule": (
        {},
        {"optimizer": lambda: FusedOptimizer(options={"lr": 0.1}, schedule=cosine(4))},
        r"optimizer\.schedule",
    ),
    "minibatch": ({}, {"prompts_per_step": 1}, r"None, got 1 \(prompts_per_step\)"),
    "seed": ({}, {"seed": 1}, r"0, got 1 \(seed\)"),
    "guide": ({}, {"guide": lambda prior, _: Twisted(prior)}, "is of another guide"),
    "scale of the prior's own adapter": (
        {"prior": lambda: adapted(1)},
        {"prior": lambda: adapted(2)},
        r"1, got 2 \(model\.prior\.network\.adapter\.default\.lora_alpha\)",
    ),
    "scale of an adapter": (
        {"guide": lambda prior, _: LoRA(prior, alpha=1)},
        {"guide": lambda prior, _: LoRA(prior, alpha=2)},
        r"\(guide\.\S*(alpha|scaling)",
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "message"), OTHERS.values(), ids=OTHERS)
def test_another_fit_is_refused_by_name(ours, theirs, message, tmp_path):
    """The same model, built again, resumes."""
    Case(**ours).run(tmp_path, 1)
    with pytest.raises(CheckpointError, match=message):
        Case(**{**ours, **theirs}).run(tmp_path, 2, resume=True)
    Case(**ours).run(tmp_path, 2, resume=True)


class Halved:
    """Schedule with a rate of half at each of its named steps."""

    def __init__(self, **steps):
        vars(self).update(steps)

    def __call__(self, step):
        return 0.5 ** sum(step >= one for one in vars(self).values())


def test_a_schedule_may_be_longer_and_not_another():
    def fingerprint(num_steps, schedule):
        optimizer = FusedOptimizer(options={"lr": 0.1}, schedule=schedule)
        return Fingerprint(optimizer=optimizer, num_steps=num_steps)

    def difference(before, now):
        return fingerprint(*now).differences(fingerprint(*before).to_json(), guide=False)

    warm, cold = cosine(4, warmup=1), cosine(4)
    assert difference((4, cold), (4, warm)) == "0, got 1 (optimizer.schedule.warmup)"
    assert not difference((4, cold), (5, cosine(5)))
    one, two, three = Halved(a=1), Halved(a=1, b=2), Halved(a=1, b=2, c=3)
    assert not difference((4, two), (5, one))
    assert not difference((4, two), (5, three))
    assert "optimizer.schedule" in difference((4, two), (4, one))


def test_composed_rewards_differ_by_their_parts():
    def model(weight=1.0, threshold=0.5, penalty=2.0, index=3):
        prior = tiny()
        text = TextReward(kindness, prior)
        tokens = TokenReward(lambda response, mask: (response == index).double().sum(-1), prior)
        reward = {"sum": WeightedSum({"text": (weight, text), "tokens": (1.0, tokens)})}
        factors = {"constraint": Constraint(text, at_least=threshold)}
        return soften(AlignmentModel(prior, reward, 0.5, factors), penalty)

    def change(**other):
        return differences(model(), model(**other))[0]

    assert not change()
    assert "(model.model.rewards.sum" in change(weight=2.0)
    assert "(model.model.rewards.sum" in change(index=2)
    assert "at_least" in change(threshold=1.0)
    assert change(penalty=3.0) == "2.0, got 3.0 (model.penalty)"


def test_frozen_weights_of_a_guide_are_part_of_the_fit():
    def guide(shift):
        tuned = FineTuned(tiny(), subset="norms-and-biases", dtype="float64")
        with torch.no_grad():
            next(each for each in tuned.parameters() if not each.requires_grad).add_(shift)
        return tuned

    assert not any(differences(guide(0.0), guide(0.0), "guide"))
    assert "network.frozen weights" in differences(guide(0.0), guide(1e-6), "guide")[0]


def test_speed_and_caches_are_no_part_of_the_fit(tmp_path, whole):
    case = Case()
    case.reward = {"reward": TextReward(kindness, case.prior)}
    case.run(tmp_path, 2)
    assert torch.equal(case.run(tmp_path, resume=True, checkpoint_every=3), whole)
    other = Case()
    other.reward = {"reward": TextReward(kindness, other.prior, cache_size=0)}
    other.run(tmp_path, 5, resume=True)


def test_a_saved_and_loaded_prior_is_the_same_prior(tmp_path, whole):
    tiny().save_pretrained(tmp_path / "prior")

    def load():
        return LanguageModel.from_pretrained(
            tmp_path / "prior", max_new_tokens=3, dtype="float64", device="cpu"
        )

    Case(prior=load()).run(tmp_path / "fit", 2)
    (tmp_path / "prior").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "prior")
    assert torch.equal(Case(prior=load()).run(tmp_path / "fit", resume=True), whole)


class HasParts(torch.nn.Module):
    """A module whose attributes have the names of descriptions of its tensors."""

    def __init__(self, number, scale):
        super().__init__()
        self.weights, self.trained = number, number
        self.parameter = torch.nn.Parameter(torch.ones(1))
        self.frozen = torch.nn.Parameter(torch.full((1,), scale), requires_grad=False)


def test_names_of_attributes_and_of_tensors_of_a_module_are_apart():
    def change(number, scale):
        return differences(HasParts(1, 1.0), HasParts(number, scale), "guide")[0]

    assert not change(1, 1.0)
    assert change(2, 1.0) == "1, got 2 (guide.weights); 1, got 2 (guide.trained)"
    assert "frozen weights" in change(1, 2.0)


def test_a_default_value_hides_no_variable_of_that_name():
    def make(defaults):
        return lambda texts, scale=1: [defaults for _ in texts]

    assert differences(make(1), make(2))[0] == "1, got 2 (model.defaults)"


SCRIPT = """
import sys
from pathlib import Path
import pyro, torch
import pyro.distributions as dist
from inference import FusedOptimizer, LeaveOneOut_ELBO, fit
from tests.inference.conftest import quiet
from tests.model.tiny import tiny
prior, WEIGHT, NAMES = tiny(max_new_tokens=1), float(sys.argv[2]), {"good", "bad", "fine", "dull"}
class Word:
    def __init__(self, text): self.names = {text, text + "s", text * 2}
PAIRS = {frozenset(("good", "fine")), frozenset(("bad", "dull")), ("good", frozenset(NAMES))}
WORDS, TABLE = set(map(Word, NAMES)), {frozenset(NAMES): 1.0}
def helper(response):
    return WEIGHT * (response == 3).double().sum(-1)
def model(prompts):
    with pyro.plate("prompts", len(prompts), dim=-1):
        response = pyro.sample("response", prior(prompts))
        pyro.factor("reward", helper(response) if PAIRS and WORDS and TABLE else 0)
def guide(prompts):
    logits = pyro.param("logits", torch.zeros(1, 5, dtype=torch.float64))
    with pyro.plate("prompts", len(prompts), dim=-1):
        rows = dist.Categorical(logits=logits).to_event(1).expand([len(prompts)])
        return pyro.sample("response", rows)
fit(model, guide, prior.encode(["a"]), num_steps=int(sys.argv[3]), resume=True,
    objective=LeaveOneOut_ELBO(4),
    optimizer=FusedOptimizer(), checkpoint_folder=Path(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_plain_programs_agree_between_processes_and_differ_by_the_names_they_use(
    tmp_path, monkeypatch
):
    """Programs differ by module variables in use, not by the order of a set."""

    def run(monkeypatch, *arguments):
        monkeypatch.setattr(sys, "argv", ["script", str(tmp_path), *arguments])
        exec(compile(SCRIPT, "script", "exec"), {"__name__": "__main__"})

    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "0.5", "1"]
    subprocess.run(command, cwd=Path.cwd(), env=environment, check=True)
    run(monkeypatch, "0.5", "2")
    match = r"is of a fit with 0\.5, got 0\.75 \(model\.helper\.WEIGHT\)"
    with pytest.raises(CheckpointError, match=match):
        run(monkeypatch, "0.75", "3")


def counting(start):
    calls, seen = [0] * start, {}
    counts = Counting(start)

    def reward(texts):
        calls.append(1)
        seen[len(seen)] = [torch.zeros(1)]
        return counts(texts)

    return reward


class Counting:
    def __init__(self, start, weight=1.0):
        self.calls, self.history, self.weight = start, [torch.zeros(start + 1)], weight

    def __call__(self, texts):
        self.calls += 1
        self.history.append(torch.ones(1))
        return [self.weight * float("a" in text) for text in texts]


@pytest.mark.parametrize("make", [counting, Counting])
def test_values_that_the_fit_changes_are_no_part_of_the_fit(make, tmp_path, whole):
    """Reward that counts calls, in the interrupted process and in a new process."""
    used = make(0)
    Case(reward=used).run(tmp_path, 2)
    Case(reward=used).run(tmp_path, 3, resume=True)
    assert torch.equal(Case(reward=make(7)).run(tmp_path, resume=True), whole)


def judged(calls, gain=0.5):
    def judge(prompts, first, second):
        calls.append(1)
        return 0.5 + gain * torch.tanh(0.1 * (first - second).sum(-1).double())

    return lambda: SelfPlay(4, judge=judge)


def test_a_judge_is_part_of_the_fit_and_may_count_its_calls(tmp_path):
    calls = []
    Case(objective=judged(calls)).run(tmp_path, 2)
    resumed = Case(objective=judged(calls)).run(tmp_path, resume=True)
    assert len(calls) == STEPS
    assert torch.equal(resumed, Case(objective=judged([])).run(tmp_path / "whole"))
    with pytest.raises(CheckpointError, match=r"0\.5, got 0\.25 \(objective\.judge\.gain\)"):
        Case(objective=judged(calls, 0.25)).run(tmp_path, resume=True)


@dataclass
class Settings:
    weight: float
    resume: bool

    def score(self, text):
        return self.weight * len(text)


@pytest.mark.parametrize("kind", [argparse.Namespace, Settings])
def test_of_settings_only_those_that_are_read_count(kind):
    def reward(**settings):
        args = kind(**settings)
        score = kind.score if kind is Settings else lambda args, text: args.weight * len(text)
        return lambda texts: [score(args, text) for text in texts]

    first = reward(weight=1.0, resume=False)
    assert not any(differences(first, reward(weight=1.0, resume=True)))
    change, _ = differences(first, reward(weight=2.0, resume=True))
    assert change == "1.0, got 2.0 (model.args.weight)"


def test_items_of_sets_are_described_as_other_parts_are(tmp_path):
    """The last part of a path counts, and the settings that are read."""
    folders = [tmp_path / name / "prior" for name in ("here", "there")]
    for folder in folders:
        folder.mkdir(parents=True)
    assert differences(*({Holder(path=folder)} for folder in folders)) == ("", "")
    score = {lambda args, text: args.weight * len(text)}
    for resume, weight in ((True, 1.0), (False, 2.0)):
        args = (argparse.Namespace(weight=w, resume=r) for w, r in ((1.0, False), (weight, resume)))
        one, other = (Holder(args=each, score=score) for each in args)
        assert any(differences(one, other)) == (weight == 2.0)


def test_functions_that_call_each_other_are_described_once():
    """Each of 30 functions is reached on twice as many ways as the one before."""
    code = "".join(
        f"def f{n}(x): return g{n}(x) + f{n + 1}(x)\ndef g{n}(x): return f{n + 1}(x)\n"
        for n in range(30)
    )

    def function(weight):
        variables = {"__name__": "of_the_user", "WEIGHT": weight}
        exec(compile(f"{code}def f30(x): return WEIGHT", "of_the_user.py", "exec"), variables)
        return variables["f0"]

    assert len(Fingerprint(model=function(1)).texts) < 200
    assert "1, got 2" in differences(function(1), function(2))[0]


class Odd:
    __slots__ = ("inner", "number")

    def __init__(self, number):
        self.number, self.inner = number, self


class Locked:
    def __init__(self):
        self.lock, self.file = threading.Lock(), sys.stdout


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class Color(Enum):
    RED = 1
    GREEN = 2
    BLUE = 3


def graph(size):
    """Nodes that each hold the set of all others; the paths are too many to be followed."""
    nodes = {Holder(number=number) for number in range(size)}
    for node in nodes:
        node.others = nodes - {node}
    return nodes


ODD = [
    Odd(1),
    Locked(),
    nested(500),
    {i: f"word {i}" for i in range(1_000)},
    np.array(["a", None], dtype=object),
    np.array({"a": 1}, dtype=object),
    np.array(3.5),
    np.zeros(3, dtype=">f4"),
    np.datetime64("2020-01-01"),
    Decimal("0.5"),
    date(2020, 1, 1),
    range(3),
    torch.eye(3, device="cpu").to_sparse(),
    torch.Generator(),
    torch.tensor(1 + 1j),
    torch.zeros(0),
    iter([1]),
    (n for n in "ab"),
    {"a", ("b", 1)},
    graph(12),
    functools.lru_cache(len),
    re.compile("a"),
    operator.itemgetter(1),
    torch.nn.Linear(2, 2),
    Path("a"),
    SimpleNamespace(a=1),
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_anything_can_be_described_and_is_the_same_when_described_again(value):
    one, other = Fingerprint(model=value), Fingerprint(model=value)
    assert one.texts == other.texts
    assert len(json.dumps(one.to_json())) < 100_000
    assert not other.differences(one.to_json(), guide=False)
    assert " at 0x" not in json.dumps(one.texts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Odd(1), Odd(2)),
        (Decimal("0.5"), Decimal("0.25")),
        (date(2020, 1, 1), date(2020, 1, 2)),
        (range(3), range(4)),
        ({i: str(i) for i in range(1_000)}, {i: str(i + (i == 999)) for i in range(1_000)}),
        (torch.eye(3, device="cpu").to_sparse(), (2 * torch.eye(3, device="cpu")).to_sparse()),
        (np.zeros(3), np.zeros(3, dtype=np.float32)),
        (operator.itemgetter(1), operator.itemgetter(2)),
        (SimpleNamespace(a=1), SimpleNamespace(a=2)),
        ([1, [2, 3]], [1, [2, 4]]),
        ({"a": 1.0}, {"a": 1}),
        (np.float32(0.5), np.float32(0.25)),
        (np.array({"a": 1}, dtype=object), np.array({"a": 2}, dtype=object)),
        ({Holder(a=1)}, {Holder(a=2)}),
        ({Holder(a=1): "b"}, {Holder(a=2): "b"}),
        ({frozenset("ab")}, {frozenset("ac")}),
        ({("a", Holder(a={1}))}, {("a", Holder(a={2}))}),
        (list(Color), [Color.RED, Color.BLUE, Color.GREEN]),
        ({Color.RED, Color.GREEN}, {Color.RED, Color.BLUE}),
        (Holder(every=TWO, first=TWO[0]), Holder(every=TWO, first=TWO[1])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_different_objects_have_different_descriptions(one, other):
    assert all(differences(one, other))


def test_descriptions_ignore_the_last_digits_of_a_number():
    assert not any(differences({"beta": 0.1 + 0.2}, {"beta": 0.3}))
    change, _ = differences({"beta": 0.3}, {"beta": 0.3000001})
    assert change == "0.3, got 0.3000001 (model.beta)"


def test_the_fingerprint_can_be_read(tmp_path):
    Case().run(tmp_path, 1)
    state = json.loads((tmp_path / "step-00000001" / "state.json").read_text())
    texts = state["fingerprint"]["texts"]
    assert texts["model._beta"] == "0.5"
    assert texts["objective.num_particles"] == "4"
    assert re.fullmatch("#[0-9a-f]{32}", texts["model.prior.network.frozen weights"])
    assert len(json.dumps(texts)) < 20_000
    assert pyro.get_param_store().keys() == set()


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_packages_of_another_environment_are_installed(folder):
    """Their code would else be described as the user's, through all that it reads."""

    def function():
        pass

    assert not is_installed(function)
    place = f"/usr/lib/python3/{folder}/package/file.py"
    function.__code__ = function.__code__.replace(co_filename=place)
    assert is_installed(function)


def test_packages_in_a_folder_of_the_path_are_installed(tmp_path, monkeypatch):
    """Packages of `pip install --target` are in such a folder."""

    def function():
        pass

    monkeypatch.syspath_prepend(tmp_path)
    place = str(tmp_path / "package" / "file.py")
    function.__code__ = function.__code__.replace(co_filename=place)
    assert not is_installed(function)
    (tmp_path / "package-1.0.dist-info").mkdir()
    _targets.cache_clear()
    assert is_installed(function)
    monkeypatch.chdir(tmp_path)
    _targets.cache_clear()
    assert not is_installed(function), "the user's code"
    _targets.cache_clear()
