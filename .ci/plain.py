"""What must work with NumPy alone: kernels, training, and a clear word where an extra is missing."""

import contextlib
import sys

import numpy as np

import cbokernels as cbk

assert not {"matplotlib", "tqdm", "scipy", "torch"} & set(sys.modules), "an optional package was imported"
net = cbk.TwoLayer(1, 20, 1)
x = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
y = np.sin(6 * x[:, 0])
result = cbk.train(net, x, y, cbk.CBO(particles=50, alpha=np.inf, floor=0.05), epochs=50, batch_size=50)
assert result.history["risk"][-1] < result.history["risk"][0]
message = "plot() worked without matplotlib"
with contextlib.suppress(ImportError):
    result.plot()
    sys.exit(message)
print("trained with NumPy", np.__version__, "alone")
