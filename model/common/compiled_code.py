"""Contents of compiled code: the names in it, and all by which two functions are compared."""

from types import CodeType
from typing import Any


def names_in(code: CodeType) -> set[str]:
    """Names of variables and attributes in a function's code, inner functions included."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def compiled(code: Any) -> Any:
    """Contents of compiled code, or of one of the constants in it."""
    if isinstance(code, CodeType):
        constants = [compiled(constant) for constant in code.co_consts]
        return (code.co_code, constants, code.co_names, code.co_varnames)
    return sorted(map(repr, code)) if isinstance(code, frozenset) else code
