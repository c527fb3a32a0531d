"""The world of all lessons, and the displays that they share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import marimo
import pyro
import torch
from torch import Tensor

import experiments
from experiments.shared.training import ascend
from guides import GUIDES, Guide
from inference import Enumeration
from model import AlignmentModel, LanguageModel, Prompts, TextReward, grammar_prior, vader_sentiment

PROMPT = "the film was"
OWN_COLOURS = {"prior": "#9aa0a6", "guide": "#0072b2", "posterior": "#d55e00", "log Z": "#d55e00"}
"""Colours by the name of a distribution or a number, the same in all lessons."""
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#9aa0a6")
"""Colours of all other names, which colour-blind readers tell apart."""
STYLE = Path(experiments.__file__).parent / "shared" / "figures.mplstyle"
"""Style of all figures of the project."""
UNEXPECTED: list[str] = []
"""Numbers of tables that differ from the expected output beside them."""


@dataclass(frozen=True)
class World:
    """The grammar after one prompt: 820 responses of at most three words, each with its reward.

        world = grammar_world()
        truth = world.truth(beta=0.3)
        print(truth.log_z, world.texts[truth.log_posterior[:, 0].argmax()])

    Attributes:
        prior: p0, a language model.
        prompts: the prompt "the film was".
        reward: sentiment of a text, from -1 to 1.
    """

    prior: LanguageModel
    prompts: Prompts
    reward: TextReward

    def model(self, beta: float) -> AlignmentModel:
        """The program of the posterior at this beta."""
        return AlignmentModel(self.prior, self.reward, beta)

    def truth(self, beta: float) -> Enumeration:
        """The exact posterior at this beta."""
        return Enumeration(self.model(beta), self.prompts)

    def new_guide(self, family: str) -> Guide:
        """An untrained guide of a family of `GUIDES`."""
        pyro.set_rng_seed(0)
        return GUIDES[family](self.prior, self.prompts)

    def best_guide(self, family: str, beta: float) -> Guide:
        """Member of a family with the least KL(q || p*): 300 steps on the exact gradient."""
        guide, truth = self.new_guide(family), self.truth(beta)
        return ascend(guide, truth, 300, learning_rate=0.3, kl_penalty=True)

    @property
    def support(self) -> Tensor:
        """All responses, `[820, 1, 3]`, token ids."""
        return self.prior(self.prompts).enumerate_support()

    @property
    def texts(self) -> list[str]:
        """Text of each response, without the prompt."""
        return [row[0] or "(nothing)" for row in self.prior.decode(self.support)]


def two_kls(truth: Enumeration, guide: Guide) -> tuple[float, float]:
    """KL(q || p*) and KL(p* || q) of a guide q, nats, exact."""
    return truth.kl_guide_posterior(guide)[0].item(), truth.kl_posterior_guide(guide)[0].item()


@cache
def grammar_world() -> World:
    """The world of all lessons, trained once a process, in about two seconds."""
    torch.set_num_threads(1)
    prior = grammar_prior(max_new_tokens=3)
    return World(prior, prior.encode([PROMPT]), TextReward(vader_sentiment, prior))


def in_style(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw in the style of all figures. Matplotlib takes time to import."""

    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Any:
        from matplotlib import style

        with style.context(STYLE):
            return draw(*args, **kwargs)

    return styled


def colours_of(names: Iterable[str]) -> list[str]:
    """A colour for each name, no colour twice."""
    own = [OWN_COLOURS.get(name) for name in names]
    free = iter(colour for colour in COLOURS if colour not in own)
    return [colour or next(free) for colour in own]


@in_style
def bars(
    texts: Sequence[str], probabilities: Mapping[str, Tensor], title: str, num_shown: int = 12
) -> Any:
    """Figure with a bar for each distribution, for the most probable responses of the first one.

    Args:
        texts: S texts.
        probabilities: distributions by name, each `[S]` or `[S, 1]`.
        title: title of the figure.
        num_shown: number of responses; a last bar has the sum over all others.
    """
    from matplotlib.figure import Figure

    columns = {name: values.detach().flatten() for name, values in probabilities.items()}
    order = next(iter(columns.values())).argsort(descending=True)[:num_shown]
    labels = [*(texts[i] for i in order.tolist()), "all others"]
    figure = Figure(figsize=(6.6, 3.8))
    axes = figure.subplots()
    width, colours = 0.8 / len(columns), colours_of(columns)
    for k, (name, values) in enumerate(columns.items()):
        heights = [*values[order].tolist(), 1 - values[order].sum().item()]
        places = [n + k * width for n in range(len(labels))]
        axes.bar(places, heights, width, label=name, color=colours[k])
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(labels))], labels, rotation=35)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
    axes.set(ylabel="probability", title=title)
    axes.legend()
    return figure


@in_style
def curves(x: Sequence[float], series: Mapping[str, Sequence[float]], **labels: str) -> Any:
    """Figure with a line for each series; `labels` are those of the axes and the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 3.8))
    axes = figure.subplots()
    for (name, values), colour in zip(series.items(), colours_of(series), strict=True):
        axes.plot(x, values, label=name, color=colour)
    axes.set(**labels)
    axes.legend()
    return figure


class About(float):
    """Expected number of a training run, which the rounding of a processor moves."""


def table(header: Sequence[str], *rows: Sequence[object]) -> Any:
    """Table of rows. Numbers have four decimals; all columns but the first are aligned right.

    A last column whose header starts with "expected" has the numbers of the column before as the
    author saw them. A difference of more than 2% and 0.002 is noted in `UNEXPECTED`; of more than
    a third where the expected number is `About`.
    """
    if header[-1].startswith("expected"):
        for *_, value, expected in rows:
            if not isinstance(expected, str) and not _close(value, expected):
                UNEXPECTED.append(f"{_cell(value)}, expected {_cell(expected)}")
    alignment = [":--"] + ["--:"] * (len(header) - 1)
    lines = [header, alignment, *rows]
    return marimo.md("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))


def checked(answer: object, check: Callable[[Any], None]) -> Any:
    """Run the asserts of an exercise on an answer, and say that they hold; None is no answer."""
    if answer is None:
        return marimo.callout(marimo.md("No answer yet."))
    assert callable(answer), f"the answer is {answer!r}, expected a function"

    @wraps(answer)
    def returning(*args: Any) -> Any:
        value = answer(*args)
        assert value is not None, "the function returns None: is a `return` missing?"
        return value

    check(returning)
    return marimo.callout(marimo.md("Correct."), kind="success")


def numbers(value: object) -> Tensor:
    """Numbers of an answer, whether a tensor, a list, an array or a number of Python."""
    return torch.as_tensor(value, dtype=torch.float64)


def number(value: object) -> Tensor:
    """The single number of an answer."""
    values = numbers(value)
    how_many = f"the function returns {values.numel()} numbers, expected one"
    assert values.numel() == 1, f"{how_many}: is a sum missing?"
    return values.reshape(())


def near(value: object, expected: object, atol: float = 1e-8) -> bool:
    """True if numbers are equal up to rounding."""
    pair = numbers(value), numbers(expected)
    shape, expected_shape = (list(each.shape) for each in pair)
    assert shape == expected_shape, f"numbers of shape {shape}, expected {expected_shape}"
    return torch.allclose(*pair, atol=atol)


def _close(value: Any, expected: Any) -> bool:
    share = 1 / 3 if isinstance(expected, About) else 0.02
    return abs(float(value) - expected) <= 0.002 + share * abs(expected)


def _cell(value: object) -> str:
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, About):
        return f"about {value:g}"
    return f"{value:z.4f}" if isinstance(value, float) else str(value).replace("|", r"\|")
