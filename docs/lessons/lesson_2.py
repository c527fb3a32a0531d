import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="2. Alignment is conditioning")


with app.setup:
    import math

    import marimo as mo
    import torch
    from classroom import bars, checked, curves, grammar_world, near, number, numbers, table

    from inference import Enumeration
    from model import AlignmentModel, Constraint, Pattern, TextReward


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 2. Alignment is conditioning

    **Claim.** To align a language model is to condition a distribution on the observation "this
    text is good". The prior is p0(x). The likelihood is exp(r(x) / beta), with a reward r, up to a
    constant that moves log Z alone. The aligned model is the posterior:

        p*(x) = p0(x) exp(r(x) / beta) / Z,     Z = sum over x of p0(x) exp(r(x) / beta)

    The reward here is the sentiment of the sentence, from -1 to 1. Beta is the reward that buys
    one nat of log likelihood: a small beta makes the reward loud.
    """)
    return


@app.cell
def _():
    world = grammar_world()
    texts = world.texts
    reward = world.reward(world.prompts, world.support)[:, 0]  # [820]
    return reward, texts, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the posterior

    "good" has reward 0.44 and "very good" has 0.49, but the prior says "good" twice as often.
    At beta = 0.3, which of the two is more probable? And what happens to "bad"?
    """)
    return


@app.cell
def _():
    log10_beta = mo.ui.slider(
        -3, 1.5, step=0.1, value=-0.5, label="log10 of beta", full_width=True, show_value=True
    )
    mo.hstack([log10_beta])
    return (log10_beta,)


@app.cell
def _(log10_beta, reward, texts, world):
    beta = 10**log10_beta.value
    at_start = log10_beta.value == -0.5
    truth = world.truth(beta)
    posterior = truth.log_posterior[:, 0].exp()
    expected_reward = (posterior * reward).sum()
    kl = (posterior * (truth.log_posterior - truth.log_prior)[:, 0]).sum()
    mo.vstack(
        [
            table(
                ["quantity", "value", "expected output at log10 of beta = -0.5"],
                ["beta", beta, 0.3162 if at_start else ""],
                ["log Z, nats", truth.log_z[0], 0.7720 if at_start else ""],
                ["E[r] under p*", expected_reward, 0.3995 if at_start else ""],
                ["KL(p* || p0), nats", kl, 0.4913 if at_start else ""],
            ),
            bars(
                texts,
                {"prior": truth.log_prior.exp(), "posterior": posterior},
                f"Prior and posterior at beta = {beta:.3g}",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Now move beta to both ends. Predict the two limits before you look.

    - **beta to infinity.** The likelihood is 1 everywhere, and the posterior is the prior.
    - **beta to 0.** The posterior sits on the responses of highest reward, although the prior
      hardly ever says them. This collapse is the optimum of the problem that was posed. Training
      is not at fault.
    """)
    return


@app.cell
def _(reward, world):
    log_prior = world.truth(1.0).log_prior[:, 0]
    frontier = []
    for _exponent in range(-20, 16):
        log_posterior = (log_prior + reward / 10 ** (_exponent / 10)).log_softmax(0)
        probability = log_posterior.exp()
        nats = (probability * (log_posterior - log_prior)).sum()
        frontier.append((nats.item(), (probability * reward).sum().item()))
    curves(
        [nats for nats, _ in frontier],
        {"posteriors of all beta": [value for _, value in frontier]},
        xlabel="KL(p* || p0), nats",
        ylabel="expected reward",
        title="No distribution lies above this frontier of reward against KL",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: a reward of 0 or 1

    Let the reward be 1 if the response has the word "very", else 0. Beta is 0.5. "very good" is
    1.66 times as probable as "very bad" in the prior. And in the posterior?
    """)
    return


@app.cell
def _(texts, world):
    says_very = TextReward(Pattern(r"\bvery\b"), world.prior)
    binary = Enumeration(AlignmentModel(world.prior, says_very, 0.5), world.prompts)
    log_odds = {
        name: (log_prob[texts.index("very good")] - log_prob[texts.index("very bad")]).item()
        for name, log_prob in [("prior", binary.log_prior), ("posterior", binary.log_posterior)]
    }
    ratio_before, ratio_after = (math.exp(value) for value in log_odds.values())
    has_very = binary.log_likelihood[:, 0] > 0
    before, after = (
        log_prob[:, 0].exp()[has_very].sum()
        for log_prob in (binary.log_prior, binary.log_posterior)
    )
    shift = (after / (1 - after)).log() - (before / (1 - before)).log()
    table(
        ["quantity", "value", "expected output"],
        ["very good to very bad, prior", ratio_before, 1.6642],
        ["very good to very bad, posterior", ratio_after, 1.6642],
        ["p0(very)", before, 0.3475],
        ["p*(very)", after, 0.7973],
        ["shift of the log-odds of 'very', nats", shift, 2.0],
    )
    return (says_very,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The ratio is frozen: responses of equal reward have equal likelihoods. The reward moves mass
    between the two sets, never within a set. The log-odds of the set move by 1 / beta = 2 nats.

    ## Hard constraints

    A factor of 1 or 0 is the conditioning of a first course: p\*(x) = p0(x given that x says
    "very"), the limit of the posterior above as beta goes to 0. Z is the probability of the event.
    """)
    return


@app.cell
def _(says_very, world):
    must_say_very = Constraint(says_very, at_least=1.0)
    hard_model = AlignmentModel(world.prior, {}, 1.0, factors={"very": must_say_very})
    conditioned = Enumeration(hard_model, world.prompts)
    table(
        ["quantity", "value", "expected output"],
        ["Z = p0(very)", conditioned.log_z[0].exp(), 0.3475],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 1: Bayes' rule

    Write the log posterior of all responses, from their log p0, their rewards and beta.
    """)
    return


@app.cell(hide_code=True)
def _(reward, world):
    def check_posterior(answer):
        exact = world.truth(0.3)
        same = answer(exact.log_prior[:, 0], 0 * reward, 0.3)
        assert near(same, exact.log_prior[:, 0]), "at equal rewards the posterior is the prior"
        log_posterior = numbers(answer(exact.log_prior[:, 0], reward, 0.3))
        assert near(log_posterior.exp().sum(), 1.0), "divide by Z"
        assert near(log_posterior, exact.log_posterior[:, 0]), "the likelihood is exp(r / beta)"

    return (check_posterior,)


@app.cell
def _(check_posterior):
    log_posterior_of = None  # write: def log_posterior_of(log_prior, reward, beta): ...
    checked(log_posterior_of, check_posterior)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: choose beta for a target

    A reward is 1 on a set of prior probability p and 0 elsewhere. Which beta gives the set the
    posterior probability t? Write beta as a function of p and t, with t above p.
    """)
    return


@app.function(hide_code=True)
def check_beta(answer):
    for p, t in [(0.1, 0.5), (0.3, 0.9), (0.01, 0.02)]:
        some_beta = number(answer(p, t))
        assert some_beta > 0, f"beta is positive, got {some_beta}"
        likelihood = torch.exp(1 / some_beta)
        reached = p * likelihood / (p * likelihood + 1 - p)
        assert near(reached, t), f"from {p} the posterior is {reached:.3f}, not {t}"


@app.cell
def _():
    beta_for = None  # write: def beta_for(p, t): ...
    checked(beta_for, check_beta)
    return


if __name__ == "__main__":
    app.run()
