"""Signatures of reward functions: ours, and those of TRL, verl and verifiers.

    def f(texts)                                          # ours: M texts -> M numbers
    def f(completions, prompts, COLUMN, **kwargs)         # TRL: lists of M -> M numbers or None
    def f(data_source, solution_str, ground_truth, extra_info=None)  # verl: a number or a dict
    async def f(prompt, completion, answer, state)        # verifiers: a number, for one response

Names of parameters tell the signatures apart: TRL's functions have `completions`, `completion_ids`
or `prompts`, verl's `solution_str`, and verifiers' `completion`, `prompt` or `state`, ours none of
these. A function may leave out the other parameters, and may be asynchronous.

Prompts and completions are messages for a chat, otherwise texts. Columns of the prompts are passed
by name: all columns to TRL's functions; `data_source`, `ground_truth` and `extra_info` to verl's;
`answer`, `info` and `task` to verifiers'. The `state` of verifiers holds prompt, completion and all
columns. The number in a dict is the entry `score`. A function of another library may return None:
the reward does not apply to the prompt.

Sources: `GRPOTrainer` of TRL 1.16, `NaiveRewardManager` of verl, `Rubric` of verifiers.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from model.common.files import text_digest
from model.likelihood import LikelihoodError
from model.rewards.exchange import Exchange, settled


class Signature(NamedTuple):
    """Convention for the parameters of a reward function.

    Attributes:
        library: name of the library.
        usage: the parameters, for errors.
        marks: names, of which each function has one or more.
        columns: other names that a parameter without a default may have; None for any.
        arguments: function of M exchanges that returns the arguments of each call, by name.
        is_batched: True for one call for all exchanges, False for a call for each.
    """

    library: str
    usage: str
    marks: frozenset[str]
    columns: frozenset[str] | None
    arguments: Callable[[Sequence[Exchange]], list[dict[str, Any]]]
    is_batched: bool = False


def _for_trl(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """One call, with a list for each name."""
    names = exchanges[0].columns
    arguments: dict[str, Any] = {name: [each.columns[name] for each in exchanges] for name in names}
    arguments["prompts"] = [each.prompt for each in exchanges]
    arguments["completions"] = [each.completion for each in exchanges]
    arguments["completion_ids"] = [list(each.ids) for each in exchanges]
    return [arguments]


def _for_verl(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """A call for each response. The ground truth may be inside verl's own column `reward_model`."""
    calls = []
    for each in exchanges:
        inside = each.columns.get("reward_model")
        inside = inside if isinstance(inside, Mapping) else {}
        calls.append({**inside, **each.columns, "solution_str": each.text})
    return calls


def _for_verifiers(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """A call for each response."""
    states = [
        {**each.columns, "prompt": each.prompt, "completion": each.completion} for each in exchanges
    ]
    return [{**state, "state": state} for state in states]


SIGNATURES = (
    Signature(
        "TRL",
        "f(completions, prompts, COLUMN, **kwargs)",
        frozenset({"completions", "completion_ids", "prompts"}),
        None,
        _for_trl,
        is_batched=True,
    ),
    Signature(
        "verl",
        "f(data_source, solution_str, ground_truth, extra_info=None)",
        frozenset({"solution_str"}),
        frozenset({"data_source", "ground_truth", "extra_info"}),
        _for_verl,
    ),
    Signature(
        "verifiers",
        "f(prompt, completion, answer, state)",
        frozenset({"completion", "prompt", "state"}),
        frozenset({"answer", "info", "task"}),
        _for_verifiers,
    ),
)
"""The signatures of other libraries."""

RESERVED = frozenset[str]().union(*(each.marks | (each.columns or set()) for each in SIGNATURES))
"""Names that the parameter of a function of texts does not have."""


class ForeignFunction:
    """A reward function with the signature of another library, as a function of exchanges.

    Args:
        function: the reward function. Its attribute `columns`, if any, names columns that the
            function needs beside its parameters.
        name: name of the reward, for errors.
        signature: an entry of `SIGNATURES`.
    """

    def __init__(self, function: Callable[..., Any], name: str, signature: Signature) -> None:
        self.function, self.name, self.signature = function, name, signature
        parameters = Parameters.of(function)
        names_ids = "completion_ids" in parameters.names or parameters.takes_any
        self.sees_ids = signature.is_batched and names_ids

    @classmethod
    def of(cls, function: Callable[..., Any], name: str) -> Self | None:
        """The function by its signature; None for our own signature, of one argument.

        Raises:
            TypeError: if the parameters are of no signature, or of several.
        """
        parameters = Parameters.of(function)
        marked = [each for each in SIGNATURES if not each.marks.isdisjoint(parameters.names)]
        if not marked and parameters.takes_texts:
            return None
        if len(marked) == 1 and parameters.fit(marked[0]):
            return cls(function, name, marked[0])
        fault = "of several signatures" if len(marked) > 1 else "of no known signature"
        usages = ", ".join(f"{each.usage} of {each.library}" for each in SIGNATURES)
        raise TypeError(
            f"the reward function {name!r} has the parameters ({parameters}), {fault}: expected "
            f"one of f(texts), {usages}"
        )

    def __call__(self, exchanges: Sequence[Exchange]) -> Any:
        """Results for M exchanges as the function returned them, a list if it is well behaved."""
        parameters, calls = Parameters.of(self.function), self.signature.arguments(exchanges)
        results = settled([self.function(**parameters.among(call)) for call in calls])
        return results[0] if self.signature.is_batched else [_score(result) for result in results]

    def key(self, exchange: Exchange) -> tuple[str, ...]:
        """Name of an exchange: prompt and text, and token ids for a function that sees them."""
        digest = [text_digest(repr(exchange.ids))[:16]] if self.sees_ids else []
        return (exchange.name, exchange.text, *digest)

    def check_columns(self, columns: Mapping[str, Any]) -> None:
        """Refuse the columns of a prompt if the function needs another, by a `LikelihoodError`."""
        call = self.signature.arguments([Exchange("", "", (), "", "", columns)])[0]
        needed = Parameters.of(self.function).required | {*getattr(self.function, "columns", ())}
        if missing := sorted(needed - call.keys()):
            present = ", ".join(map(repr, columns)) or "none"
            raise LikelihoodError(
                f"the reward {self.name!r} needs the column {missing[0]!r}, and the columns of the "
                f"prompts are: {present}. Pass columns={{{missing[0]!r}: [...]}} to `encode`, or "
                "read the prompts from data with that column"
            )


def _score(result: Any) -> Any:
    """The entry `score` of a dict, as verl's functions return; any other result as it is."""
    return result["score"] if isinstance(result, Mapping) and "score" in result else result


class Parameters(NamedTuple):
    """Parameters of a function that keywords can fill."""

    names: tuple[str, ...]  # all names, in order
    required: frozenset[str]  # names without a default
    takes_any: bool  # True if the function takes further keywords
    takes_texts: bool  # True if the function can be called with texts alone

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Parameters of a function; of a built-in function without a signature, one for texts."""
        try:
            signature = inspect.signature(function)
        except ValueError:
            return cls((), frozenset(), False, True)
        each = signature.parameters.values()
        named = [p for p in each if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names = tuple(p.name for p in named)
        try:
            signature.bind([])
            takes_texts = RESERVED.isdisjoint(names)
        except TypeError:
            takes_texts = False
        required = frozenset(p.name for p in named if p.default is p.empty)
        return cls(names, required, any(p.kind == p.VAR_KEYWORD for p in each), takes_texts)

    def fit(self, signature: Signature) -> bool:
        """True if all parameters without a default are known to a signature."""
        return signature.columns is None or self.required <= signature.marks | signature.columns

    def among(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes."""
        return {
            name: value for name, value in arguments.items() if self.takes_any or name in self.names
        }

    def __str__(self) -> str:
        return ", ".join([*self.names, *(["**kwargs"] if self.takes_any else [])])
