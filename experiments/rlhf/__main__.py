"""Preferences -> reward -> posterior -> guide: RLHF as two inferences, the first of them uncertain.

Question: for how long does it help to steer a language model by a reward learned from preferences?
Claim: gold reward against KL rises, peaks and falls, while the proxy goes on rising. With more
preferences the peak is higher, and more is lost from there to a single response. Pessimism about an
uncertain reward has more gold reward than the mean at the same KL. The marginal likelihood, which
follows from Bayes' rule, is optimism: a bonus var/(2 beta) for uncertainty.
Source: Gao et al. 2022 (arXiv 2210.10760) on preferences; Coste et al. 2023 (arXiv 2310.02743) on
pessimism; the Gaussian integral E[exp(r/beta)] for the bonus.
Printed: recovery of the reward, calibration of the inference, gold reward by KL for every
aggregation with standard errors over seeds, a guide tuned on the proxy, the verdict.

Preferences are simulated from a gold reward, VADER's sentiment scaled to log-odds. The posteriors
of the proxies need no training. There are two worlds:

- Responses of 12 tokens: weighted prior draws, trusted to about 2 nats. Up to 2 nats gold reward
  hardly fell, as for any proxy with light-tailed errors (Kwa et al. 2024, arXiv 2407.14503).
- Responses of one token, all 3,072 listed: every number is exact at any KL. The proxy can choose
  words that no preference showed, so the claims are tested here. The prompt asks for an adjective:
  after "The film was" nearly all words are neutral, and preferences are coin flips.

    python -m experiments.rlhf
    python -m experiments.rlhf --num-preferences 100 1000 --inference ensemble --aggregation minimum
    python -m experiments.rlhf --preferences pairs.jsonl --prior smollm2 --guide lora

With `--preferences` the data are yours: {"prompt": ..., "chosen": ..., "rejected": ...} a line, or
{"prompt": ..., "responses": [...], "scores": [...]}, of texts or chats, or another source that
`read_judged` reads.
Held-out preferences test the reward, RUN/reward keeps the reward, and a guide is tuned on it.
"""

from dataclasses import replace
from typing import Any

from experiments.rlhf.learning import Study
from experiments.rlhf.options import RLHF
from experiments.rlhf.report import measure, write_report
from experiments.rlhf.studies import Split, read_split, simulate, study_data
from experiments.shared.claims import Finding, report
from experiments.shared.command_line import run_script
from experiments.shared.refusals import blamed, resume_hint
from experiments.shared.run_folder import RunFolder, new_folder, versions
from experiments.shared.training import build_guide
from guides import GUIDES
from guides.model_card import ModelCard
from guides.saved import save_guide, write_card
from inference import LeaveOneOut_ELBO, fit, random_state
from model import LanguageModel, Prompts
from model.common.paths import without_folders
from model.preferences import Ranking, encode_distinct_prompts, uncertain_model
from model.prior.named_priors import ON_THE_HUB


def main(args: RLHF) -> list[Finding]:
    """Findings about the claim; empty for preferences of a file."""
    prior, features = args.load()
    split = None
    if args.preferences is not None:
        reader = prior.tokenizer, args.prompt_column
        split = read_split(args.preferences, args.held_out, args.seed, *reader)
        if isinstance(split[0][0], Ranking) and (args.flip or args.tie_strength):
            problem = "--flip and --tie-strength are for pairs, --preferences has rankings"
            raise SystemExit(f"{problem}: leave them out")
    prompts = encode_prompts(args, prior, split)
    with new_folder(args, "rlhf") as folder, resume_hint(lambda: to_go_on(folder)):
        print(f"run folder {folder.path}")
        with random_state.isolated(args.seed):
            if split is None:
                study = simulate(args, prior, features, folder.path)
            else:
                study = study_data(args, features, split, folder.path)
            guide_table = tune_guide(args, prior, prompts, study, folder)
        tables = [*study.tables, guide_table]
        text = "\n\n".join(tables)
        if study.findings:
            text = report(__doc__, tables, study.findings)
        write_report(folder, text, study.pictures)
        return [*study.findings]


def encode_prompts(args: RLHF, prior: LanguageModel, split: Split | None) -> Prompts:
    """Prompts of the guide; exit if they do not fit, or the guide cannot be built for them."""
    encoded = []
    if split is not None:
        with blamed("--preferences"):
            encoded.append(encode_distinct_prompts(split[0], prior, args.max_prompts))
    else:
        for where, prompt in {"--prompt": args.prompt, "--word-prompt": args.word_prompt}.items():
            with blamed(where):
                encoded.append(prior.encode([prompt]))
    with random_state.isolated(args.seed):
        build_guide(args.guide, {}, prior, encoded[0])
    return encoded[0]


def tune_guide(
    args: RLHF, prior: LanguageModel, prompts: Prompts, study: Study, folder: RunFolder
) -> str:
    """Tune a guide on the learned reward and save it. Returns the table of its measurement."""
    model = uncertain_model(prior, study.posterior, args.aggregation, args.beta)
    guide = GUIDES[args.guide](prior, prompts)
    clip_norm = None if args.learning_rate is None else 1.0
    how: dict[str, Any] = {"learning_rate": args.learning_rate, "clip_norm": clip_norm}
    how |= {"num_steps": args.steps, "prompts_per_step": 4, "seed": args.seed, "progress": False}
    how |= {"objective": LeaveOneOut_ELBO(args.particles), "on_step": folder.append_metrics}
    fitted = fit(model, guide, prompts, **how)
    card = model_card(args)
    save_guide(folder.guide, guide, args.guide, {}, prompts, card, temperature=prior.temperature)
    title = (
        f"A guide, {args.guide}, {args.steps} steps on the {args.aggregation} of the last reward "
        f"at beta {args.beta:g}"
    )
    if fitted.stopped_early is not None:
        title += f"\nThe fit stopped early at {fitted.stopped_early}"
    with random_state.measuring():
        measured = measure(model, guide, prompts, args.samples, study.gold, study.sample)
    table, diagnostics = measured
    card = replace(card, facts={**card.facts, **diagnostics.summary()})
    write_card(folder.guide, args.guide, prompts, card)
    return f"{title}\n{table}"


def model_card(args: RLHF) -> ModelCard:
    """Model card of the guide, without measurements."""
    facts = {
        "reward r": f"learned from preferences by {args.inference}, features of {args.head} head",
        "likelihood": f"{args.aggregation} of {args.reward_samples} draws of the reward",
        "preferences": without_folders(args.preferences or "simulated"),
        "beta": f"{args.beta:g}",
        "training": f"{args.steps} steps, seed {args.seed}",
    }
    loading = {name: getattr(args, name) for name in ("max_new_tokens", "temperature")}
    base, title = ON_THE_HUB.get(args.prior, ""), "A guide tuned on a reward from preferences"
    prior = without_folders(args.prior)
    return ModelCard(title, prior, base, loading, facts, versions())


def to_go_on(folder: RunFolder) -> str:
    """Hint after an interrupted run; empty if there is no reward yet."""
    reward = folder.path / "reward"
    if not reward.is_dir():
        return ""
    return f"To go on from its reward: python -m experiments.steer --reward preferences:{reward}"


if __name__ == "__main__":
    run_script(main, RLHF)
