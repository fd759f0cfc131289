"""Many short cases in one test: pytest takes two milliseconds for each test, often more than the case."""

from __future__ import annotations

import functools
import inspect


def in_turn(names, values):
    """As pytest.mark.parametrize, but all in one test, whose failure names the case."""
    names = names.split(", ")

    def decorate(test):
        @functools.wraps(test)
        def run(**others):
            for value in values:
                case = dict(zip(names, value if len(names) > 1 else [value], strict=True))
                try:
                    test(**case, **others)
                except Exception as fault:
                    raise AssertionError(f"with {case}: {fault}") from fault

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in names]
        run.__signature__ = signature.replace(parameters=left)
        return run

    return decorate
