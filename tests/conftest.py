"""Fixtures of all tests: one thread, a seed and an empty parameter store, the enumerable world.

The fixed world of the tests is `prior` and `prompts`: the grammar of `model.prior.grammar`.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import pyro
import pytest
import torch

from model import LanguageModel, Prompts, grammar_prior
from model.prior.grammar import PROMPTS
from tests import pretend_device
from tests.model.tiny import encoder
from tests.on_device import on_cpu, place_tests
from tests.ranks import Group, started

torch.set_num_threads(1)

MEMORY = 2.5e9
"""Bytes of free memory for each process that runs tests; two take up to 4.9e9 together."""

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260k"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="device of the tests, such as `cuda`; see tests/on_device.py")


def pytest_configure(config: pytest.Config) -> None:
    config.option.reportchars += "s"  # say why a test was skipped
    if config.option.device == pretend_device.NAME:
        pretend_device.register()
    if config.option.device:
        place_tests(torch.device(config.option.device))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Number of processes for `-n auto`; 0, the process of pytest itself, on one core."""
    import psutil

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num = min(num_cores or 1, int(psutil.virtual_memory().available / MEMORY))
    return num if num > 1 else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test with the mark `on_cpu` on the CPU, also under `--device`."""
    with on_cpu() if item.get_closest_marker("on_cpu") else nullcontext():
        return (yield)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse parameters from a set, whose order differs between the processes of `make test`."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        if isinstance(mark.args[1], set | frozenset):
            place = metafunc.definition.nodeid
            raise pytest.UsageError(f"{place}: {mark.args[0]!r} is from a set: pass sorted(...)")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Start each test from the same seed with an empty parameter store."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """Leave out fsync, which waits for the disk: no test survives a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def prior() -> LanguageModel:
    """Prior of the enumerable world: 820 responses to a prompt, float64.

    All tests share the prior. A test that changes the prior copies it.
    """
    return grammar_prior(max_new_tokens=3)


@pytest.fixture(scope="session")
def prompts(prior: LanguageModel) -> Prompts:
    """Both prompts of the grammar."""
    return prior.encode(PROMPTS)


@pytest.fixture
def encoder_folder(prior: LanguageModel, tmp_path: Path) -> Path:
    """A tiny encoder with the tokenizer of the prior."""
    folder = tmp_path / "encoder"
    encoder(vocab_size=prior.vocab_size).save_pretrained(folder)
    prior.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stories_folder() -> Path:
    """Checkpoint of another project, whose padding id is the end id."""
    if not STORIES.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{STORIES} is absent")
    return STORIES


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Two processes in a process group, which all tests share."""
    with started(tmp_path_factory.mktemp("group")) as group:
        yield group
