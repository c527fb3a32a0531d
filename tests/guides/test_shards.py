"""Shards of guide and prior on two ranks: the fit of one process, saved as by one process."""

import copy
import itertools
import os
import warnings
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from guides import GUIDES, Guide
from guides.shards import shard
from inference import LeaveOneOut_ELBO, fit
from inference.svi import rollback
from inference.svi.best_iterate import BestIterate
from inference.svi.checkpoint.state import FitState
from inference.svi.optimizer import trust_region
from inference.svi.optimizer.fused import FusedOptimizer
from inference.svi.optimizer.trust_region import TrustRegion
from model import AlignmentModel, LanguageModel, Prompts, ResponseDistribution
from model.common.exchange import LostRankError, in_step
from model.common.ranks import is_first
from model.common.sharded_tensors import local
from model.networks.sharded_modules import gathered
from model.prior import batch, logits
from model.prior.division import divided
from tests.model.tiny import PROMPTS, tiny
from tests.ranks import started

pytestmark = pytest.mark.on_cpu  # as the processes of `group`

FAMILIES = {
    "fine-tuned": {},
    "lora": {"rank": 2},
    "twisted": {},
    "soft-prompt": {"num_virtual_tokens": 2},
}
NETWORKS = {"gpt2": torch.float64, "llama": torch.float32}
"""Networks with one matrix for first and last layer, and with two; and their types."""
NAMES = ("all_gather_single", "all_gather_into_tensor")
GATHER = next(name for name in NAMES if hasattr(distributed, name))
"""Name of torch's function that gathers a layer; torch 2.11 has the second name alone."""
TOLERANCES = {"gpt2": 1e-9, "llama": 1e-4}


def reward(prompts: Prompts, response: Tensor) -> Tensor:
    """Different for each response."""
    return 0.3 * (response == 3).sum(-1) - 0.1 * response[..., 0]


def world(name: str, network: str) -> tuple[LanguageModel, AlignmentModel, Guide, Prompts]:
    """A small language model, and a guide whose first responses are of many lengths."""
    prior = tiny(network, NETWORKS[network], max_new_tokens=6)
    prompts = prior.encode(PROMPTS[:2])
    guide = GUIDES[name](prior, prompts, **FAMILIES[name])
    return prior, AlignmentModel(prior, reward, beta=0.5), guide, prompts


def trained(
    name: str,
    network: str,
    folder: Path,
    *,
    sharded: bool,
    gather_draws: bool = False,
    **options: object,
) -> tuple[dict[str, Tensor], list[float]]:
    """Parameters and ELBOs of two steps in a fit; the guide is saved in the folder."""
    prior, model, guide, prompts = world(name, network)
    if sharded:
        total = sum(p.numel() for p in prior.parameters())
        shard(guide, prior, gather_draws=gather_draws)
        own = sum(local(p).numel() for p in prior.parameters())
        assert own < 0.6 * total  # on two ranks; some vectors are whole
    settings = {"num_steps": 2, "objective": LeaveOneOut_ELBO(num_particles=5)} | options
    result = fit(model, guide, prompts, progress=False, **settings)
    with gathered(guide):
        if is_first():
            guide.save_pretrained(folder)
            parameters = {key: p.detach() for key, p in guide.trained().items()}
            return parameters, [step["elbo"] for step in result.metrics]
    return {}, []


def every_way(name: str, network: str, folder: Path, *, sharded: bool) -> list:
    """A plain fit; then all that saves memory or time, and a clipped norm."""
    results = [trained(name, network, folder / "plain", sharded=sharded)]
    before, small = logits.CHUNK, 16
    logits.CHUNK = batch.CHUNK = small
    try:
        clipped = FusedOptimizer(torch.optim.Adam, {"lr": 0.01}, clip_norm=0.1)
        options = {"micro_batch": 3, "checkpoint_activations": True, "optimizer": clipped}
        options["gather_draws"] = True
        results.append(trained(name, network, folder / "frugal", sharded=sharded, **options))
    finally:
        logits.CHUNK = batch.CHUNK = before
    return results


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("fine-tuned", "gpt2"),
        ("fine-tuned", "llama"),
        ("lora", "gpt2"),
        ("twisted", "gpt2"),
        ("soft-prompt", "llama"),
    ],
)
def test_a_sharded_fit_is_that_of_one_process(group, tmp_path, name, network):
    one = every_way(name, network, tmp_path / "one", sharded=False)
    (two, _) = group.run(every_way, name, network, tmp_path / "two", sharded=True)
    tolerance = TOLERANCES[network]
    for (parameters, elbos), (expected, expected_elbos) in zip(two, one, strict=True):
        assert elbos == pytest.approx(expected_elbos, rel=tolerance)
        for key, value in expected.items():
            torch.testing.assert_close(parameters[key], value, rtol=tolerance, atol=tolerance)
    for way in ("plain", "frugal"):
        _, _, guide, prompts = world(name, network)
        response = guide.distribution(prompts).sample((8,))
        loaded, other = copy.deepcopy(guide), guide
        loaded.load_pretrained(tmp_path / "two" / way)
        other.load_pretrained(tmp_path / "one" / way)
        scores = [each.distribution(prompts).log_prob(response) for each in (loaded, other)]
        torch.testing.assert_close(*scores, rtol=tolerance, atol=tolerance)


def trained_in_another_order(*args, **options) -> None:
    """`trained` on shards, with the best parameters in another order on each rank."""
    get_state = BestIterate.get_state

    def ordered(self: BestIterate) -> dict[str, Tensor]:
        items = list(get_state(self).items())
        return dict(items if is_first() else reversed(items))

    with patch.object(BestIterate, "get_state", ordered):
        trained(*args, sharded=True, **options)


def test_a_checkpoint_is_resumed_with_and_without_shards(group, tmp_path):
    name, network, step = "fine-tuned", "gpt2", {"objective": None}
    for folder, sharded in ((tmp_path / "one", False), (tmp_path / "two", True)):
        options = {"checkpoint_folder": folder, "num_steps": 1, **step}
        if sharded:
            group.run(trained_in_another_order, name, network, tmp_path / "guide", **options)
        else:
            trained(name, network, tmp_path / "guide", sharded=False, **options)
    best = [load_file(next((tmp_path / n).glob("*/health.safetensors"))) for n in ("one", "two")]
    assert "best" in best[0]
    torch.testing.assert_close(*best, rtol=1e-9, atol=1e-9)
    options = {"num_steps": 2, "resume": True, **step}
    args = (name, network, tmp_path / "guide")
    one = trained(*args, sharded=False, checkpoint_folder=tmp_path / "two", **options)
    folder = tmp_path / "one"
    (two, _) = group.run(trained, *args, sharded=True, checkpoint_folder=folder, **options)
    assert two[1] == pytest.approx(one[1], rel=1e-9)
    for key, value in one[0].items():
        torch.testing.assert_close(two[0][key], value, rtol=1e-9, atol=1e-9)


def slopes(folder: Path, *, sharded: bool) -> list[float]:
    """Slopes of the loss along each step of a fit that drops the momentum where a slope is up."""
    values: list[float] = []
    slope = TrustRegion._slope

    def recorded(self: TrustRegion, norm: Tensor) -> Tensor:
        values.append(slope(self, norm).item())
        return torch.tensor(values[-1])

    with patch.object(TrustRegion, "_slope", recorded), patch.object(trust_region, "UPHILL", 0.0):
        trained("twisted", "gpt2", folder, sharded=sharded, num_steps=5)
    return values


def test_the_slope_along_a_step_adds_up_over_shards(group, tmp_path):
    """A guide with sharded and whole parameters."""
    one = slopes(tmp_path / "one", sharded=False)
    assert max(one) > 0
    for two in group.run(slopes, tmp_path / "two", sharded=True):
        assert two == pytest.approx(one, rel=1e-4)


def lone_draws(*, sharded: bool) -> list[Tensor]:
    """Draws and scores of two responses at a time, one on each rank."""
    _, _, guide, prompts = world("lora", "gpt2")
    if sharded:
        shard(guide)
    with divided(), torch.no_grad():
        distribution = guide.distribution(prompts[:1])
        response = torch.stack([distribution.sample((2,)) for _ in range(6)])
        log_prob = torch.stack([distribution.log_prob(pair) for pair in response])
    return [response, log_prob, distribution.space.is_token(response).sum(-1)]


def test_ranks_whose_responses_have_ended_go_on(group):
    """The numbers of passes of a draw and of a score follow the longest response of all ranks."""
    expected = lone_draws(sharded=False)
    assert (expected[2][:, 0] != expected[2][:, 1]).sum() > 2
    for response, log_prob, _ in group.run(lone_draws, sharded=True):
        assert response.equal(expected[0])
        torch.testing.assert_close(log_prob, expected[1], rtol=1e-9, atol=1e-9)


def failed(folder: Path, name: str, place: str, error: Exception) -> None:
    """Leave the error of a fit in which one rank fails in its 13th call, and end the process."""
    prior, _, guide, prompts = world(name, "gpt2")
    calls = itertools.count()

    def failing(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
        if not is_first() and next(calls) == 12:
            raise error
        return function(*args)

    failing_reward = partial(failing, reward) if place == "reward" else reward
    save = partial(failing, FitState.save) if place == "checkpoint" else FitState.save
    if place in ("guide", "prior"):
        head = (prior if place == "prior" else guide.language_model).network.lm_head
        head.forward = partial(failing, head.forward)
    model = AlignmentModel(prior, failing_reward, beta=0.5)
    shard(*([prior] if place == "prior" else [guide, prior]))
    objective = LeaveOneOut_ELBO(num_particles=5)
    alone = AssertionError("a rank has run a sharded guide alone")
    trial = rollback.gives_numbers if place == "prior" else alone
    try:
        with (
            patch.object(rollback, "gives_numbers", side_effect=trial),
            patch.object(FitState, "save", partialmethod(save)),
        ):
            options = {"num_steps": 20, "checkpoint_folder": folder / "fit", "checkpoint_every": 1}
            fit(model, guide, prompts, objective=objective, progress=False, **options)
    except Exception as caught:
        (folder / f"{is_first()}").write_text(f"{type(caught).__name__}: {caught}")
    os._exit(0)


@pytest.mark.parametrize(
    ("name", "place", "error", "of_other"),
    [
        ("lora", "guide", torch.OutOfMemoryError("out of memory"), "LostRankError: rank 0 of 2"),
        ("lora", "guide", RuntimeError("a shape"), "LostRankError: rank 0 of 2"),
        ("fine-tuned", "prior", RuntimeError("a shape"), "LostRankError: rank 0 of 2"),
        ("fine-tuned", "reward", ZeroDivisionError("no reward"), "RankError: rank 1 failed: Zero"),
        ("fine-tuned", "checkpoint", KeyError("moment"), "LostRankError: rank 0 of 2"),
    ],
)
def test_a_rank_that_fails_in_a_pass_of_shards_ends_with_its_own_error(
    tmp_path, name, place, error, of_other
):
    """The others wait for a layer: gloo would end a process that sends something else."""
    with started(tmp_path) as group, pytest.raises(EOFError):
        group.run(failed, tmp_path, name, place, error)
    own = f"{type(error).__name__}: {error}"
    assert (tmp_path / "False").read_text().startswith(own)  # Pyro adds the shapes of its sites
    assert (tmp_path / "True").read_text().startswith(of_other)


def diverged() -> str | None:
    """Reason for the end of a fit with a step far too long, whose guide can be drawn from."""
    prior, model, guide, prompts = world("lora", "gpt2")
    shard(guide, prior)
    settings = {"optimizer": FusedOptimizer(torch.optim.Adam, {"lr": 1e200}), "num_steps": 5}
    with warnings.catch_warnings(action="ignore"):
        result = fit(model, guide, prompts, progress=False, **settings)
    guide.distribution(prompts).sample()
    return result.stopped_early


def test_a_step_of_shards_to_a_guide_of_nan_is_undone_on_all_ranks(group):
    for reason in group.run(diverged):
        assert reason.startswith("step 0: the guide has no numbers at the parameters of step 1")


def test_a_rank_lost_in_a_trial_says_nothing_of_the_guide():
    _, _, guide, prompts = world("lora", "gpt2")
    for error, is_sound in ((LostRankError("ended"), True), (RuntimeError("a shape"), False)):
        with patch.object(ResponseDistribution, "sample", side_effect=error):
            assert rollback.gives_numbers(guide, prompts) == is_sound


def mismatch() -> str:
    """Error of a product of two shards, whose shapes do not fit, inside a step."""
    mesh = init_device_mesh("cpu", (2,))
    part = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
    with pytest.raises(RuntimeError) as error, in_step():
        part @ part
    return f"{type(error.value).__name__}: {error.value}"


def test_shapes_of_shards_that_do_not_fit_are_no_loss_of_a_rank(group):
    for text in group.run(mismatch):
        assert text.startswith("RuntimeError: a and b must have same reduction dim")


def num_gathers(*, gather_draws: bool) -> int:
    """Number of layers and matrices gathered in a draw of responses of six tokens."""
    _, _, guide, prompts = world("lora", "llama")
    shard(guide, gather_draws=gather_draws)
    with patch.object(distributed, GATHER, wraps=getattr(distributed, GATHER)) as gather:
        response = guide.distribution(prompts).sample((32,))
    assert guide.language_model.space.is_token(response)[..., -1].any()
    return gather.call_count


def test_a_draw_gathers_the_network_once(group):
    """Two layers, embeddings and output layer; once, or for each of six passes."""
    assert group.run(num_gathers, gather_draws=True) == [4, 4]
    assert group.run(num_gathers, gather_draws=False) == [24, 24]


def test_shards_of_a_compiled_decode_or_of_nothing_are_refused():
    prior, *_ = world("lora", "gpt2")
    prior.compile_decode = True
    with pytest.raises(ValueError, match="compile_decode"):
        shard(prior)
    with pytest.raises(ValueError, match="no network"):
        shard(torch.nn.Linear(1, 1))
