"""The library's version."""

import functools


@functools.cache
def number() -> str:
    """As installed. What looks for it takes as long to import as a quarter of the library."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cbokernels")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
