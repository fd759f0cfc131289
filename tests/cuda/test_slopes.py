"""Activations and their slopes on a card or the emulation; tests/test_activations.py has the CPU's."""

import numpy as np
import pytest
import ulps
from libraries import host, put
from test_activations import LARGEST, RELATIVE

from cbokernels._kinds import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.mark.parametrize("path", ["direct", "products"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_in_units_in_the_last_place(activation, dtype, path):
    # a card's divisions in gelu and erf are approximate
    allowed = LARGEST[activation] + {"gelu": 4, "erf": 1}.get(activation, 0)
    assert ulps.worst_value(activation, dtype, path=path, put=put, host=host, dense=300) <= allowed


@pytest.mark.parametrize("path", ["direct", "products"])
@pytest.mark.parametrize("activation", ulps.SLOPES)
def test_slopes_keep_their_digits(activation, dtype, path):
    assert ulps.worst_slope(activation, dtype, path=path, put=put, host=host, dense=60) <= RELATIVE[dtype]


@pytest.mark.parametrize("path", ["direct", "products"])
def test_tanh_saturates(dtype, path):
    z = np.array(
        [9.2, 20, 1e3, 1e30, np.inf] if dtype == "float32" else [19.2, 30, 1e3, 1e300, np.inf], dtype
    )
    for sign in (1, -1):
        found = ulps.values("tanh", sign * z, path, put, host)
        np.testing.assert_array_equal(found, np.full_like(z, sign))
