import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="1. A language model is a distribution")


with app.setup:
    import marimo as mo
    import pyro
    import torch
    from classroom import bars, checked, grammar_world, number, table

    from inference import entropy


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 1. A language model is a distribution

    **Claim.** A language model is a distribution p0(x) over whole responses x, like a normal
    distribution over numbers. It can be sampled, it scores any response, and its probabilities
    sum to 1.

    The world of all lessons is small on purpose. A GPT-2 of two layers has learned to finish the
    sentence "the film was". It knows nine words, and a response has at most three of them. There
    are 1 + 9 + 81 + 729 = 820 responses, and every sum over them is computed, not estimated.
    """)
    return


@app.cell
def _():
    world = grammar_world()
    p0 = world.prior(world.prompts)  # a Pyro distribution over responses
    log_prior = p0.log_prob(world.support)[:, 0].detach()  # [820], nats
    texts = world.texts
    return log_prior, p0, texts, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the sum

    The network only ever predicts the next word. Nobody normalised its 820 responses.
    Do their probabilities sum to 1 exactly, nearly, or not at all?
    """)
    return


@app.cell
def _(log_prior, p0):
    total = log_prior.exp().sum()
    table(
        ["quantity", "value", "expected output"],
        ["type", type(p0).__name__, "ResponseDistribution"],
        ["number of responses", len(log_prior), 820],
        ["sum of probabilities", total, 1.0000],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Exactly, up to rounding. The chain rule is the reason: p0(x) is the product of the
    probabilities of its words, each given the words before, with the end as a word. Every factor
    sums to 1, so the product does.

    ## Predict, then run: the chain rule

    Which is more probable, "good" or "very good"? "very" is followed by "good" half of the time.
    """)
    return


@app.cell
def _(log_prior, p0, texts, world):
    very_good = texts.index("very good")
    per_word = p0.log_prob_per_token(world.support[very_good : very_good + 1])[0, 0].detach()
    table(
        ["response", "probability", "expected output"],
        ["good", log_prior[texts.index("good")].exp(), 0.2494],
        ["very good", log_prior[very_good].exp(), 0.1232],
        ["p(very) p(good given very) p(end given very good)", per_word.sum().exp(), 0.1232],
    )
    return


@app.cell
def _(log_prior, texts):
    bars(texts, {"prior": log_prior.exp()}, "Twelve sentences have 99% of the probability")
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: draws

    In Pyro the language model stands at a sample site, like any distribution. Draw K responses
    and count. By how much will the share of "good" miss 0.2494 at K = 100? And at K = 10,000?
    """)
    return


@app.cell
def _():
    log10_draws = mo.ui.slider(
        1, 4, step=0.5, value=2, label="log10 of the number of draws K", show_value=True
    )
    mo.hstack([log10_draws], justify="start")
    return (log10_draws,)


@app.cell
def _(log10_draws, log_prior, texts, world):
    pyro.set_rng_seed(0)
    num_draws = round(10**log10_draws.value)
    with pyro.plate("draws", num_draws, dim=-2), pyro.plate("prompts", 1, dim=-1):
        draws = pyro.sample("response", world.prior(world.prompts))  # [K, 1, 3]
    place = {tuple(row): i for i, row in enumerate(world.support[:, 0].tolist())}
    numbers = torch.tensor([place[tuple(row)] for row in draws[:, 0].tolist()])
    share = torch.bincount(numbers, minlength=len(texts)) / num_draws
    good = log_prior[texts.index("good")].exp()
    standard_error = (good * (1 - good) / num_draws).sqrt()
    share_of_good = share[texts.index("good")]
    mo.vstack(
        [
            table(
                ["share of 'good'", "value", "expected output at K = 100"],
                ["in the draws", share_of_good, 0.27 if num_draws == 100 else ""],
                ["exact", good, 0.2494],
                ["standard error", standard_error, 0.0433 if num_draws == 100 else ""],
            ),
            bars(texts, {"exact": log_prior.exp(), f"{num_draws} draws": share}, "Draws and truth"),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The error falls with the square root of K: a hundred times the draws, a tenth of the error.

    ## Exercise 1: an event

    An event is a set of responses. Its probability is a sum. Write a function that returns the
    probability that a response has the word "not". Its arguments are the 820 log probabilities
    and the 820 texts.
    """)
    return


@app.cell(hide_code=True)
def _(log_prior, texts):
    def check_event(answer):
        value = number(answer(log_prior, texts))
        assert value > 0.05, "add probabilities, not their logarithms"
        assert abs(value - 0.0742) > 1e-3, "'not very good' has the word too"
        assert abs(value - 0.2501) < 1e-3, "sum the probabilities of the texts with the word"

    return (check_event,)


@app.cell
def _(check_event):
    probability_of_not = None  # write: def probability_of_not(log_prior, texts): ...
    checked(probability_of_not, check_event)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: the entropy

    The entropy, minus the mean of log p0(x) under p0, says how undecided the model is. Write the
    function of the 820 log probabilities. The unit is the nat.
    """)
    return


@app.cell(hide_code=True)
def _(log_prior):
    def check_entropy(answer):
        exact = entropy(log_prior[:, None])[0]
        value = number(answer(log_prior))
        assert value > 0, "the entropy of a discrete distribution is not negative"
        assert abs(value + log_prior.mean()) > 1e-3, "weight each term by its probability"
        assert abs(value - exact) < 1e-5, f"expected {exact:.4f} nats"
        assert number(answer(torch.zeros(1))) == 0, "a sure response has entropy 0"

    return (check_entropy,)


@app.cell
def _(check_entropy):
    entropy_of = None  # write: def entropy_of(log_prob): ...
    checked(entropy_of, check_entropy)
    return


if __name__ == "__main__":
    app.run()
