"""The script `steer` on small priors: files, resume, refusals."""

import json
import re
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
import tyro
from transformers import AutoModelForCausalLM

from experiments.steer.__main__ import main
from experiments.steer.arguments import Steer
from experiments.steer.decoding import load_guide
from experiments.steer.guide_options import GuideOptions
from experiments.steer.resuming import read_record, restored
from guides import GUIDES
from inference import OBJECTIVES, SAMPLERS
from inference.svi.metrics_file import read_metrics
from model.preferences import LinearHead, PriorFeatures, RewardPosterior, StandardisedFeatures
from model.prior.compiled_step import CompiledStep
from model.prior.named_priors import FILM_REVIEWS, load_prior
from model.registry import REWARDS
from tests.experiments.steer.small import ended_early
from tests.inference.objectives.uses import ONE_OF_EACH_USE

SHORT = Steer(
    steps=4,
    particles=4,
    samples=20,
    prior_draws=40,
    threads=1,
    checkpoint_every=2,
    max_new_tokens=3,
)


@pytest.fixture
def args(grammar_folder, tmp_path):
    return replace(SHORT, prior=str(grammar_folder), prompts=("the film was", "the"), out=tmp_path)


def untimed(folder):
    """Metrics of a run without the times of the steps."""
    return [
        {name: value for name, value in record.items() if name != "step_time"}
        for record in read_metrics(folder.metrics)
    ]


def test_run_folder_and_report(args, capsys, monkeypatch):
    monkeypatch.undo()  # figures are drawn
    folder = main(args)
    printed = capsys.readouterr().out
    for expected in (
        "Before, from the prior",
        "log Z =",
        "KL(. || p*)",
        "KL(p* || .)",
        "are left",
        "E[r]",
    ):
        assert expected in printed
    saved = json.loads(folder.arguments.read_text())
    assert saved["arguments"]["beta"] == args.beta
    assert saved["versions"]["torch"] == version("torch")  # without the kind of build
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert record["elbo"] == pytest.approx(record["reward"] / args.beta - record["kl"])
        assert 0 < record["step_time"] < 60
        assert 1 <= record["completions/mean_length"] <= 3
    assert AutoModelForCausalLM.from_pretrained(folder.guide).num_parameters() > 0
    page = folder.report.read_text()
    for word in ("p0", "q", "p*", "Effective sample size", "Pareto k-hat", "distinct-2"):
        assert re.search(rf"<p[^>]*>[^<]*(?<!\w){re.escape(word)}(?!\w)[^<]*</p>", page), word
    assert "the posteriors of every beta are estimated" in page.lower()
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="?(?!#)', page.split("<svg")[0]), (
        "the page loads something from elsewhere"
    )


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
    folder = main(replace(args, guide=guide, objective=objective, steps=1, prompts_per_step=one))
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
    fresh, loaded = (
        GUIDES[guide](prior, prompts, **saved["options"]),
        load_guide(folder.guide, prior),
    )
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
    assert (
        f"guide lora, {2 * 32 * (4 + 2 + 5 + 5) * 2:,} trained parameters"
        in capsys.readouterr().out
    )
    assert json.loads((folder.guide / "adapter_config.json").read_text())["r"] == 2
    assert AutoModelForCausalLM.from_pretrained(folder.path / "merged").num_parameters() > 0
    assert (
        restored(Steer(resume=folder.path), read_record(folder.path)["arguments"]).options
        == options
    )
    older = {
        name: value
        for name, value in read_record(folder.path)["arguments"].items()
        if name != "options"
    }
    with pytest.raises(SystemExit, match="lacks 'options'"):
        restored(Steer(resume=folder.path), older)


def test_another_run_selects_the_table_by_prompt(args):
    """The prompt decides, not the position; a prompt without a table is named."""
    tuned = main(replace(args, guide="mean-field", steps=1)).guide
    prior = load_prior(args.prior, **args.loading)
    guide, turned = load_guide(tuned, prior), prior.encode(args.prompts[::-1])
    response = prior(turned).sample((4,))
    log_guide = guide.distribution(prior.encode(args.prompts)).log_prob(response.flip(1)).flip(1)
    assert torch.allclose(
        guide.distribution(turned).log_prob(response), log_guide, rtol=0, atol=1e-5
    )
    with pytest.raises(SystemExit, match="no table for the prompt 'the plot was'"):
        main(
            replace(args, prompts=("the plot was",), sample="importance", budget=8, proposal=tuned)
        )


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
    monkeypatch.setattr(
        CompiledStep,
        "compile",
        lambda _, decoder, num_read: decoders.append(type(decoder).__name__),
    )
    plain, compiled = (
        read_metrics(main(replace(args, compile=is_compiled)).metrics)
        for is_compiled in (False, True)
    )
    assert set(decoders) == {"LanguageModel"}
    for step, other in zip(plain, compiled, strict=True):
        assert step["elbo"] == pytest.approx(other["elbo"], abs=1e-3)


def test_choices_that_do_not_go_together(args):
    for choice, message in (
        ({"guide": "fixed"}, "--guide fixed has nothing to train: add --sample"),
        (
            {"guide": "lora", "sample": "smc"},
            "--sample trains nothing: train --guide lora without it",
        ),
        (
            {
                "guide": "lora",
                "options": GuideOptions(lora=type(GuideOptions().lora)(target_modules="(")),
            },
            "no regular expression",
        ),
        (
            {"guide": "soft-prompt", "prompts": ("the film", "the film was " * 7)},
            "virtual tokens, 22 of the prompt and",
        ),
        ({"shard": "both"}, "--shard both is for several processes: start with `torchrun"),
        ({"merge": True}, "--merge is for --guide lora, got --guide fine-tuned"),
        (
            {"options": GuideOptions(n_gram=type(GuideOptions().n_gram)(n=3))},
            "--n-gram.n is for --guide n-gram, got --guide fine",
        ),
        (
            {"objective": "contrastive-twist"},
            "--objective contrastive-twist with --guide fine-tuned: LanguageModel has no twist",
        ),
        ({"objective": "reward-to-go-value", "guide": "n-gram"}, "has no `hidden`"),
        ({"reward": ("taste",)}, r"--reward 'taste': expected \[WEIGHT"),
        ({"penalty": 3.0}, "--penalty 3 softens --constraint, which is not given"),
        ({"constraint": ("words:good",), "penalty": 3.0, "sample": "smc"}, "--penalty is for SVI"),
        (
            {"constraint": ("words:good",), "penalty": 1.0, "kl_budget": 1.0},
            "--penalty is given with a budget",
        ),
        ({"prompts": ()}, "--prompts is empty"),
        (
            {"particles": 1},
            "--particles 1 with --objective leave-one-out: --particles is 1, "
            "expected a whole number",
        ),
        ({"moment": ("words:good=0.5",), "kl_budget": 1.0}, "--moment moves the posterior"),
        (
            {
                "constraint": ("words:zzz",),
                "moment": ("words:good=0.5",),
                "objective": "forward-kl",
            },
            "--moment: .*loosen the constraint",
        ),
        ({"moment": ("words:good=1.5",)}, "--moment: no finite multipliers give .* words:good 1.5"),
        (
            {"constraint": ("words:zzz",), "objective": "forward-kl"},
            "none of 40 draws of the prior after .* meets it",
        ),
        (
            {"factor": ("marginal-likelihood:RUN/reward",), "kl_budget": 1.0},
            "--factor marginal-likelihood:RUN/reward depends on beta, which a budget solves for",
        ),
        ({"kl_budget": 1.0, "min_reward": 0.5}, "--kl-budget and --min-reward are both given"),
        ({"min_reward": 2.0}, r"--min-reward: E\[r\] is asked to be 2 of reward, and ranges from"),
        (
            {"constraint": ("words:was",)},
            "--objective leave-one-out descends .* choose one of wake-phi, .*--penalty",
        ),
        (
            {"guide": "n-gram", "options": GuideOptions(n_gram=type(GuideOptions().n_gram)(n=0))},
            "--guide n-gram: n is 0",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            main(replace(args, **choice))


def test_constraint_and_weighted_rewards(args, capsys):
    rewards = {"reward": ("vader", "0.1*length"), "constraint": ("words:bad,dull<=0",)}
    folder = main(replace(args, **rewards, objective="forward-kl", samples=200, prior_draws=400))
    printed = capsys.readouterr().out
    assert "steered by vader + 0.1*length given words:bad,dull<=0, beta 0.1" in printed
    assert "are forbidden, of the prior's" in printed
    assert "KL(p* || q) went from" in printed
    resumed = main(Steer(resume=folder.path))
    assert json.loads(resumed.arguments.read_text())["arguments"]["constraint"] == [
        "words:bad,dull<=0"
    ]


def test_penalty_makes_constraints_soft(args, capsys):
    main(replace(args, constraint=("words:bad,dull<=0",), penalty=2.0))
    printed = capsys.readouterr().out
    assert "given words:bad,dull<=0 (soft, 2 nats), beta 0.1" in printed
    assert "are left" in printed
    reward, forbidden = (
        line.split() for line in printed.splitlines() if line.startswith(("E[r]", "forbidden  "))
    )
    assert float(reward[1]) > -1, "a penalty of 2 nats at beta 0.1 is no part of the reward"
    assert float(forbidden[1].rstrip("%")) > 20


def test_moments_are_reported_and_kept_for_a_resume(args, capsys):
    args = replace(args, reward=(), moment=("words:very=0.6",), samples=300, prior_draws=1000)
    folder = main(args)
    printed = capsys.readouterr().out
    assert "steered by no reward with means words:very=0.6, beta 0.1" in printed
    posterior = next(
        line for line in printed.splitlines() if line.startswith("E[words:very]")
    ).split()[-3:]
    assert float(posterior[0]) == pytest.approx(0.6, abs=4 * float(posterior[2]))
    assert "forbidden" not in printed
    resumed = main(replace(args, moment=(), resume=folder.path))
    assert json.loads(resumed.arguments.read_text())["arguments"]["moment"] == ["words:very=0.6"]
    assert "reward" not in json.loads((folder.path / "metrics.jsonl").read_text().splitlines()[0])
    assert "E<sub>q</sub>[r]" not in folder.report.read_text()
    capsys.readouterr()
    main(replace(args, sample="importance", budget=2000))
    reached = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("E[words:very] of the posterior")
    )
    assert float(reached.split()[-3]) == pytest.approx(0.6, abs=0.06)


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
    printed = capsys.readouterr().out
    assert "E[r] of the prior" in printed
    assert "inf" not in next(
        line for line in printed.splitlines() if line.startswith("E[r] of the prior")
    )
    lines = [
        json.loads(line)["text"] for line in (folder.path / "draws.jsonl").read_text().splitlines()
    ]
    assert lines
    assert all("very" in text.split() for text in lines)


def test_budget_is_spent_and_kept_for_a_resume(args, capsys):
    args = replace(args, prior_draws=1000)  # all 820 responses are listed
    folder = main(replace(args, kl_budget=0.5))
    match = re.search(
        r"beta (\S+): KL\(p\* \|\| p0\) = 0.500 ± 0.000 nats .* exactly", capsys.readouterr().out
    )
    assert match
    saved = json.loads(folder.arguments.read_text())["arguments"]
    assert saved["beta"] == pytest.approx(float(match[1]), rel=1e-3)
    main(replace(args, resume=folder.path))
    assert json.loads(folder.arguments.read_text())["arguments"]["beta"] == saved["beta"]
    main(replace(args, min_reward=0.1))
    assert "E[r] = 0.100 ± 0.000" in capsys.readouterr().out


def test_micro_batches_are_the_same_run(args):
    records = [
        [json.loads(line) for line in main(each).metrics.read_text().splitlines()]
        for each in (args, replace(args, micro_batch=3))
    ]
    losses, divided = ([record["loss"] for record in metrics] for metrics in records)
    assert divided == pytest.approx(losses, rel=1e-5)


def test_prompts_from_a_file(args, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the film\n\nthe plot was\n")
    main(replace(args, prompts_file=tmp_path / "prompts.txt", steps=1))
    assert "the plot was" in capsys.readouterr().out


def test_prompt_file_without_prompts_is_refused(args, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SystemExit, match="has no prompts"):
        main(replace(args, prompts_file=tmp_path / "empty.txt"))


def test_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Steer, args=["--help"])
    text = capsys.readouterr().out
    for choice in (
        *GUIDES,
        *OBJECTIVES,
        *SAMPLERS,
        "film-reviews",
        "smollm2",
        *REWARDS,
        "--lora.rank",
        "--twisted.top-k",
    ):
        assert choice in text


def test_foreign_checkpoint(stories_folder, tmp_path):
    args = replace(
        SHORT,
        prior=str(stories_folder),
        prompts=("Once upon a time", "Lily"),
        out=tmp_path,
        max_new_tokens=8,
    )
    assert main(args).report.is_file()


def test_embedded_prior_is_small_and_writes_english():
    assert sum(path.stat().st_size for path in FILM_REVIEWS.iterdir()) < 8_000_000
    prior = load_prior(
        "film-reviews", max_new_tokens=24, temperature=1.0, dtype="float32", device="cpu"
    )
    distribution = prior(prior.encode(["The film was"]))
    likely = prior.tokenizer(" a very good movie.", add_special_tokens=False)["input_ids"]
    unlikely = prior.tokenizer(" movie very. a good", add_special_tokens=False)["input_ids"]
    log_prob = [
        distribution.log_prob_per_token(_padded(prior, ids))[0, : len(ids)].sum().item()
        for ids in (likely, unlikely)
    ]
    assert log_prob[0] > log_prob[1] + 5


def _padded(prior, ids):
    return torch.tensor([[*ids, *[prior.pad_id] * (prior.max_new_tokens - len(ids))]])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_steers_without_training(args, sampler, capsys):
    folder = main(replace(args, sample=sampler, budget=4096 if sampler == "rejection" else 1024))
    lines = [json.loads(line) for line in (folder.path / "draws.jsonl").read_text().splitlines()]
    assert len(lines) == 256 * len(args.prompts)
    assert lines[0]["text"].startswith(lines[0]["prompt"])
    text = capsys.readouterr().out
    target = re.escape(SAMPLERS[sampler].target)
    error = "" if sampler == "enumeration" else r" ± \d"
    assert re.search(rf"^E\[r\] of the {target} +-?[\d.]+{error}", text, re.MULTILINE)
    assert re.search(r"^E\[r\] of the prior +-?[\d.]+ ± \d", text, re.MULTILINE)
    assert f"From the {SAMPLERS[sampler].target}" in text
    assert "nothing was trained" in text


def test_a_sample_of_few_effective_draws_is_marked(args, capsys):
    main(replace(args, sample="importance", budget=40, beta=0.01))
    note = r"\(\?\) \d+ of 40 draws of the prior effective, fewer than 30: the numbers"
    assert re.search(note, capsys.readouterr().out)


def test_sampler_that_cannot_says_why(args):
    tuned = main(replace(args, steps=1)).guide
    with pytest.raises(SystemExit, match=r"--sample rejection: .*: use --sample quasi-rejection"):
        main(replace(args, sample="rejection", budget=64, proposal=tuned))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample": "rejection", "beta": 1e-3, "budget": 2}, "Draw more, use a better guide"),
        ({"sample": "quasi-rejection", "budget": 1}, "--budget = 1 leaves no draw"),
        ({"sample": "best-of-n", "budget": 1}, "--budget = 1 and n = 16, expected 1 <= n <="),
        ({"objective": "contrastive-twist", "guide": "lora"}, "a guide such as --guide twisted"),
        ({"max_new_tokens": 500}, "with --max-new-tokens=500"),
        ({"particles": 1}, "--particles is 1"),
        ({"moment": ("words:film=7",), "objective": "forward-kl"}, "use --constraint"),
    ],
)
def test_refusals_name_options(args, changes, words):
    """The library names arguments of Python in these refusals."""
    with pytest.raises(SystemExit) as refusal:
        main(replace(args, **changes))
    assert words in refusal.value.code
    assert not re.search("num_|_sampling|`[A-Z]", refusal.value.code)
