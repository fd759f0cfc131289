"""CBXpy's step, on the NumPy loop's risks or on those of one product: the faster of its forms."""

from __future__ import annotations

import numpy as np
import numpy_
from cbx.dynamics import CBO
from workloads import ALPHA, DT, LAMBDA, SIGMA, Array, Contestant, Item, workload


def contestants(item: Item, threads: int) -> dict[str, Contestant]:
    if item.kind != "step":
        return {}
    work = workload(item.workload)
    x, y = work.batch()
    risks = numpy_.product if work.outputs > 1 else numpy_.risks

    def objective(particles: Array) -> Array:
        return risks(work, particles.astype(np.float32, copy=False), x, y)

    dynamic = CBO(
        objective, f_dim="2D", x=work.thetas[0][None].copy(), noise="anisotropic", dt=DT, alpha=ALPHA,
        sigma=SIGMA, lamda=LAMBDA, max_it=10**9, verbosity=0,
    )  # fmt: skip
    return {"CBXpy on NumPy": Contestant(lambda _: dynamic.step(), in_place=True)}
