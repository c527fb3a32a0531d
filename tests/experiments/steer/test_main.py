"""The script `steer` on small priors: files, resume, refusals."""

import json
import re
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
import tyro
from transformers import AutoModelForCausalLM

from experiments.shared.metrics_file import read_metrics
from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from experiments.steer.decoding import load_guide
from experiments.steer.guide_options import GuideOptions
from experiments.steer.resuming import read_record, restored
from guides import GUIDES
from inference import OBJECTIVES, SAMPLERS
from model import LanguageModel
from model.preferences import LinearHead, PriorFeatures, RewardPosterior, StandardisedFeatures
from model.prior.compiled_step import CompiledStep
from model.prior.named_priors import FILM_REVIEWS, load_prior
from model.registry import REWARDS
from tests.experiments.steer import small
from tests.experiments.steer.small import ended_early, untimed
from tests.inference.objectives.uses import ONE_OF_EACH_USE

SHORT = replace(small.SHORT, steps=4, samples=20, checkpoint_every=2, guide="fine-tuned")


def row_of(text, start):
    """Words of the line that begins so."""
    return next(line.split() for line in text.splitlines() if line.startswith(start))


def draws_of(folder):
    """Records of the draws of a sampler."""
    return [json.loads(line) for line in (folder.path / "draws.jsonl").read_text().splitlines()]


@pytest.fixture
def args(grammar_folder, tmp_path):
    return replace(SHORT, prior=str(grammar_folder), prompts=("the film was", "the"), out=tmp_path)


def test_run_folder_and_report(args, capsys, monkeypatch):
    monkeypatch.undo()  # figures are drawn
    folder = main(args)
    printed = capsys.readouterr().out
    symbols = ("log Z =", "KL(. || p*)", "KL(p* || .)", "E[r]")
    for text in ("Before, from the prior", *symbols, "are left"):
        assert text in printed
    saved = json.loads(folder.arguments.read_text())
    assert saved["arguments"]["beta"] == args.beta
    assert saved["versions"]["torch"] == version("torch")  # without the kind of build
    steps = read_metrics(folder.metrics)
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert record["elbo"] == pytest.approx(record["reward"] / args.beta - record["kl"])
        assert 0 < record["step_time"] < 60
        assert 1 <= record["completions/mean_length"] <= 3
    assert AutoModelForCausalLM.from_pretrained(folder.guide).num_parameters() > 0
    page = folder.report.read_text()
    for word in ("p0", "q", "p*", "Effective sample size", "Pareto k-hat", "distinct-2"):
        assert re.search(rf"<p[^>]*>[^<]*(?<!\w){re.escape(word)}(?!\w)[^<]*</p>", page), word
    assert "The posteriors of every beta are estimated from draws of the prior alone" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="?(?!#)', page.split("<svg")[0]), (
        "the page loads something from elsewhere"
    )


@pytest.mark.parametrize(
    ("kind", "sample", "effect"),
    [
        ("function", None, "The first number is remembered"),
        ("token-function", "importance", "Each call draws another number"),
    ],
)
def test_a_reward_that_does_not_repeat_itself_is_a_warning(kind, sample, effect, args, tmp_path):
    file = tmp_path / "judge.py"
    texts = "import random\ndef judge(texts): return [random.random() for _ in texts]"
    tokens = "import torch\ndef judge(ids, mask): return torch.rand(ids.shape[:-1])"
    file.write_text(texts if kind == "function" else tokens)
    reward = (f"{kind}:{file}:judge",)
    message = rf"'judge' gave a response another number .*, or \S+ nats. {effect}"
    with pytest.warns(UserWarning, match=message):
        folder = main(replace(args, reward=reward, steps=1, sample=sample, budget=64))
    assert sample or "Warning: reward 'judge' gave" in folder.measurements.read_text()


def test_resume_ends_where_an_unbroken_run_ends(args, tmp_path):
    killed, _ = ended_early(replace(args, out=tmp_path / "killed"), MemoryError())
    whole, resumed = main(args), main(Steer(resume=killed.path))
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(folder.guide).state_dict()
        for folder in (resumed, whole)
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert untimed(resumed) == untimed(whole)


@pytest.mark.parametrize("objective", ONE_OF_EACH_USE)
def test_every_kind_of_objective_runs_and_another_target_is_told(args, objective):
    guide, one = OBJECTIVES[objective].guide, OBJECTIVES[objective].max_prompts
    own = {"guide": guide, "prompts_per_step": one, "particles": 4}  # best of k needs k + 1
    folder = main(replace(args, objective=objective, steps=1, **own))
    is_other = OBJECTIVES[objective].target != "posterior"
    for path in (folder.report, folder.measurements):
        text = path.read_text()
        assert (f"The target of {objective} is not p*" in text) == is_other
        assert ("divergences and figures are those of p*" in text) == is_other


@pytest.mark.parametrize("guide", sorted(set(GUIDES) - {"fixed", "tempered"}))
def test_every_guide_runs_and_is_a_proposal_after(args, guide, capsys):
    """A saved guide loads from the folder with the same ELBO."""
    folder = main(replace(args, guide=guide, steps=1))
    assert folder.report.is_file()
    assert "trained parameters" in capsys.readouterr().out
    main(replace(args, sample="importance", budget=64, proposal=folder.guide))
    assert f"64 responses from {folder.guide}" in capsys.readouterr().out
    prior = load_prior(args.prior, **args.loading)
    prompts = prior.encode(args.prompts)
    saved = json.loads((folder.guide / "guide.json").read_text())
    fresh = GUIDES[guide](prior, prompts, **saved["options"])
    loaded = load_guide(folder.guide, prior)
    response = prior(prompts).sample((4,))
    log_prob = [one.distribution(prompts).log_prob(response) for one in (fresh, loaded)]
    assert not torch.equal(*log_prob)


def test_the_seed_is_also_that_of_a_guides_random_start(args):
    """Whatever was drawn before."""
    first = untimed(main(replace(args, guide="recurrent", steps=1)))
    torch.rand(1)
    assert untimed(main(replace(args, guide="recurrent", steps=1))) == first
    assert untimed(main(replace(args, guide="recurrent", steps=1, seed=1))) != first


def test_options_of_a_guide_are_used_and_restored_on_resume(args, capsys):
    options = GuideOptions(lora=type(GuideOptions().lora)(rank=2))
    folder = main(replace(args, guide="lora", options=options, merge=True, steps=2))
    size = 2 * 32 * (4 + 2 + 5 + 5) * 2
    assert f"guide lora, {size:,} trained parameters" in capsys.readouterr().out
    assert json.loads((folder.guide / "adapter_config.json").read_text())["r"] == 2
    assert AutoModelForCausalLM.from_pretrained(folder.path / "merged").num_parameters() > 0
    saved = read_record(folder.path)["arguments"]
    assert restored(Steer(resume=folder.path), saved).options == options
    del saved["options"]  # as of an older version
    with pytest.raises(SystemExit, match="lacks 'options'"):
        restored(Steer(resume=folder.path), saved)


def test_another_run_selects_the_table_by_prompt(args):
    """The prompt decides, not the position; a prompt without a table is named."""
    tuned = main(replace(args, guide="mean-field", steps=1)).guide
    prior = load_prior(args.prior, **args.loading)
    guide, turned = load_guide(tuned, prior), prior.encode(args.prompts[::-1])
    response = prior(turned).sample((4,))
    log_guide = guide.distribution(prior.encode(args.prompts)).log_prob(response.flip(1)).flip(1)
    log_turned = guide.distribution(turned).log_prob(response)
    assert torch.allclose(log_turned, log_guide, rtol=0, atol=1e-5)
    sampled = replace(args, sample="importance", budget=8, proposal=tuned)
    with pytest.raises(SystemExit, match="no table for the prompt 'the plot was'"):
        main(replace(sampled, prompts=("the plot was",)))


def test_a_guide_that_needs_no_training_is_a_proposal(args, capsys):
    main(replace(args, guide="tempered", sample="importance", budget=64))
    assert "64 responses from tempered" in capsys.readouterr().out


def test_a_half_precision_copy_may_train_in_float32(args, capsys):
    options = GuideOptions(fine_tuned=type(GuideOptions().fine_tuned)(dtype="float32"))
    main(replace(args, dtype="bfloat16", steps=1))
    assert "training in bfloat16 loses most updates" in capsys.readouterr().out
    main(replace(args, dtype="bfloat16", steps=1, options=options))
    assert "training in bfloat16" not in capsys.readouterr().out


def test_compiled_decode_trains_on_the_same_draws(args, monkeypatch):
    """The buffers of the compiled step, without a compiler."""
    decoders = []
    monkeypatch.setattr(CompiledStep, "compile", lambda _, decoder, __: decoders.append(decoder))
    plain, compiled = (read_metrics(main(replace(args, compile=c)).metrics) for c in (False, True))
    assert {type(decoder) for decoder in decoders} == {LanguageModel}
    for step, other in zip(plain, compiled, strict=True):
        assert step["elbo"] == pytest.approx(other["elbo"], abs=1e-3)


def test_constraint_and_weighted_rewards(args, capsys):
    rewards = {"reward": ("vader", "0.1*length"), "constraint": ("words:bad,dull<=0",)}
    folder = main(replace(args, **rewards, objective="forward-kl", samples=200, prior_draws=400))
    printed = capsys.readouterr().out
    assert "steered by vader + 0.1*length given words:bad,dull<=0, beta 0.1" in printed
    assert "are forbidden, of the prior's" in printed
    assert "KL(p* || q) went from" in printed
    resumed = main(Steer(resume=folder.path))
    assert read_record(resumed.path)["arguments"]["constraint"] == ["words:bad,dull<=0"]


def test_penalty_makes_constraints_soft(args, capsys):
    main(replace(args, constraint=("words:bad,dull<=0",), penalty=2.0))
    printed = capsys.readouterr().out
    assert "given words:bad,dull<=0 (soft, 2 nats), beta 0.1" in printed
    assert "are left" in printed
    reward, forbidden = row_of(printed, "E[r]")[1], row_of(printed, "forbidden  ")[1]
    assert float(reward) > -1, "a penalty of 2 nats at beta 0.1 is no part of the reward"
    assert float(forbidden.rstrip("%")) > 20


def test_moments_are_reported_and_kept_for_a_resume(args, capsys):
    args = replace(args, reward=(), moment=("words:very=0.6",), samples=300, prior_draws=1000)
    folder = main(args)
    printed = capsys.readouterr().out
    assert "steered by no reward with means words:very=0.6: " in printed
    *_, mean, _, error = row_of(printed, "E[words:very]")
    assert float(mean) == pytest.approx(0.6, abs=4 * float(error))
    assert "forbidden" not in printed
    resumed = main(replace(args, moment=(), resume=folder.path))
    assert json.loads(resumed.arguments.read_text())["arguments"]["moment"] == ["words:very=0.6"]
    assert "reward" not in read_metrics(folder.metrics)[0]
    capsys.readouterr()
    main(replace(args, sample="importance", budget=2000))
    reached = row_of(capsys.readouterr().out, "E[words:very] of the posterior")
    assert float(reached[-3]) == pytest.approx(0.6, abs=0.06)


def test_a_factor_is_no_reward_and_is_kept_for_a_resume(args, prior, tmp_path, capsys):
    features = StandardisedFeatures.fit(PriorFeatures(prior), ["a film", "the plot was"])
    head = LinearHead(features.num_features)
    weights = torch.randn(3, head.num_weights, dtype=torch.float64)
    RewardPosterior(head, features, weights).save(tmp_path / "reward")
    factor = f"marginal-likelihood:{tmp_path / 'reward'}"
    folder = main(replace(args, reward=(), factor=(factor,), out=tmp_path / "runs"))
    printed = capsys.readouterr().out
    assert "steered by no reward times marginal-likelihood:reward, beta 0.1" in printed
    assert re.search(r"^E\[r\] +0.000 ± 0.000", printed, re.MULTILINE)
    assert re.search(r"^E\[log likelihood\] +\S+ ± ", printed, re.MULTILINE)
    for record in read_metrics(folder.metrics):
        kl = record["log_likelihood"] - record["elbo"]
        assert record["kl"] == pytest.approx(kl)
        assert "reward" not in record
    main(Steer(resume=folder.path))
    assert read_record(folder.path)["arguments"]["factor"] == [factor]
    [weights_file] = (tmp_path / "reward").glob("*.safetensors")
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"x")
    with pytest.raises(SystemExit, match=f"--factor {factor}: .* changed since the run was made"):
        main(Steer(resume=folder.path))


def test_constraint_is_kept_by_samplers(args, capsys):
    folder = main(replace(args, constraint=("words:very",), sample="importance", budget=2000))
    assert "inf" not in " ".join(row_of(capsys.readouterr().out, "E[r] of the prior"))
    assert all("very" in record["text"].split() for record in draws_of(folder))


def test_budget_is_spent_and_kept_for_a_resume(args, capsys):
    args = replace(args, prior_draws=1000)  # all 820 responses are listed
    folder = main(replace(args, kl_budget=0.5))
    pattern = r"beta (\S+): KL\(p\* \|\| p0\) = 0.500 ± 0.000 nats .* exactly"
    [beta] = re.findall(pattern, capsys.readouterr().out)
    saved = read_record(folder.path)["arguments"]["beta"]
    assert saved == pytest.approx(float(beta), rel=1e-3)
    main(replace(args, resume=folder.path))
    assert read_record(folder.path)["arguments"]["beta"] == saved
    main(replace(args, min_reward=0.1))
    assert "E[r] = 0.100 ± 0.000" in capsys.readouterr().out


def test_prompts_from_a_file(args, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the film\n\nthe plot was\n")
    main(replace(args, prompts_file=tmp_path / "prompts.txt", steps=1))
    assert "the plot was" in capsys.readouterr().out


def test_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Steer, args=["--help"])
    text = capsys.readouterr().out
    others = ("film-reviews", "smollm2", "--lora.rank", "--twisted.top-k")
    for choice in (*GUIDES, *OBJECTIVES, *SAMPLERS, *REWARDS, *others):
        assert choice in text


def test_foreign_checkpoint(stories_folder, tmp_path):
    prompts = ("Once upon a time", "Lily")
    args = replace(SHORT, prior=str(stories_folder), prompts=prompts, out=tmp_path)
    assert main(replace(args, max_new_tokens=8)).report.is_file()


def test_embedded_prior_is_small_and_writes_english():
    assert sum(path.stat().st_size for path in FILM_REVIEWS.iterdir()) < 8_000_000
    prior = load_prior("film-reviews", max_new_tokens=24, device="cpu")
    distribution = prior(prior.encode(["The film was"]))
    log_prob = []
    for text in (" a very good movie.", " movie very. a good"):
        ids = prior.tokenizer(text, add_special_tokens=False)["input_ids"]
        response = torch.tensor([[*ids, *[prior.pad_id] * (24 - len(ids))]])
        log_prob.append(distribution.log_prob_per_token(response)[0, : len(ids)].sum().item())
    assert log_prob[0] > log_prob[1] + 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_steers_without_training(args, sampler, capsys):
    folder = main(replace(args, sample=sampler, budget=4096 if sampler == "rejection" else 1024))
    draws = draws_of(folder)
    assert len(draws) == 256 * len(args.prompts)
    assert draws[0]["text"].startswith(draws[0]["prompt"])
    text = capsys.readouterr().out
    target = re.escape(SAMPLERS[sampler].target)
    error = "" if sampler == "enumeration" else r" ± \d"
    assert re.search(rf"^E\[r\] of the {target} +-?[\d.]+{error}", text, re.MULTILINE)
    assert re.search(r"^E\[r\] of the prior +-?[\d.]+ ± \d", text, re.MULTILINE)
    assert f"From the {SAMPLERS[sampler].target}" in text
    assert "nothing was trained" in text


def test_a_sample_of_few_effective_draws_is_marked(args, capsys):
    main(replace(args, sample="importance", budget=40, beta=0.01))
    note = r"\(\?\) \d+ of 40 draws of the prior effective, fewer than 30: numbers of the posterior"
    assert re.search(note, capsys.readouterr().out)
