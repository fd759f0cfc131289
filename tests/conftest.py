"""Settings shared by the tests."""

from __future__ import annotations

import signal

import hypothesis
import pytest

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Both dtypes of theta."""
    return str(request.param)


# A shell's background jobs ignore SIGINT and their children inherit that; the tests of interrupts need it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
