"""Two-layer networks: what a flat parameter vector means, and initial particles.

    g(x; theta) = s * sum_m c_m sigma(w_m . x + b_m)  (+ a),    s = 1/M or 1

One network is one vector theta of D = M(d + 1 + C) (+ C) numbers: w [M, d], b [M], c [C, M], then a [C],
each in row-major order, as PyTorch orders Linear(d, M), Linear(M, C). As a measure it is the mean of M
atoms (w_m, b_m, c_m) [De Deyn, Herty, Samaey 2025, eq. 4-6].
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from . import _cpu, _modules
from ._arrays import Array, like, view
from ._checks import FLOATS, WORD, boolean, choice, float_dtype, integer, kind, new_array, real, threads
from ._checks import seed as check_seed
from ._once import once

SCALINGS = ("mean", "none")


@dataclasses.dataclass(frozen=True)
class TwoLayer:
    """A two-layer network's shape; it holds no parameters.

    inputs, width, outputs: d, M and C, each at least 1; outputs is 1 unless it is said.
    activation: "relu" (default), "tanh", "sigmoid", "gelu" (exact, by erf), "softplus", "identity",
        "leaky_relu" (0.01 z below 0), "silu" (z times the sigmoid), "sin", "erf", or without gradients "sign"
        (-1 below 0, else 1) and "step" (0 below 0, else 1). NaN stays NaN, and so sin makes infinity.
        Values are exact to 3 units in the last place, gelu's to 5, where they are not subnormal numbers.
    scaling: "mean" (default) divides the sum over neurons by M, the mean-field scaling; "none" does not.
    output_bias: whether theta ends with one bias per output (default False).

    TypeError for values of another kind, ValueError for sizes below 1 and unknown names.
    """

    inputs: int
    width: int
    outputs: int = 1
    activation: str = "relu"
    scaling: str = "mean"
    output_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("inputs", "width", "outputs"):
            object.__setattr__(self, name, integer(getattr(self, name), name, 1, 2**31))
        choice(self.activation, "activation", tuple(_cpu.ACTIVATIONS))
        choice(self.scaling, "scaling", SCALINGS)
        object.__setattr__(self, "output_bias", boolean(self.output_bias, "output_bias"))

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached compiled value stays behind; it is made anew where it is needed.
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @once
    def _kernel(self) -> _cpu.Network:
        return _cpu.Network(
            self.inputs, self.width, self.outputs, self.activation, self.scaling, self.output_bias
        )

    @property
    def _scale(self) -> float:
        """What outputs are multiplied by: 1/M, or 1."""
        return 1 / self.width if self.scaling == "mean" else 1.0

    def _mean_field_width(self) -> int:
        """M, which undoes the mean-field scaling in the force on a neuron; ValueError without it."""
        if self.output_bias or self.scaling != "mean":
            raise ValueError(f"net must have scaling='mean' and no output_bias, got {self}")
        return self.width

    @once
    def _atom_index(self) -> Array:
        """The neuron that each coordinate but an output bias belongs to, int32."""
        neurons = np.arange(self.width, dtype=np.int32)
        return np.concatenate([np.repeat(neurons, self.inputs), neurons, np.tile(neurons, self.outputs)])

    @once
    def size(self) -> int:
        """D, the number of parameters."""
        return self.width * self._atom_size + (self.outputs if self.output_bias else 0)

    @property
    def _atom_size(self) -> int:
        return self.inputs + 1 + self.outputs

    @property
    def _ends(self) -> tuple[int, int, int]:
        w = self.width * self.inputs
        return w, w + self.width, w + self.width + self.outputs * self.width

    def unpack(self, theta: Any) -> tuple[Any, Any, Any, Any]:
        """Views (w [..., M, d], b [..., M], c [..., C, M], a [..., C] or None) of theta [..., D].

        TypeError unless theta is a float32 or float64 array, ValueError unless its last axis has D entries.
        """
        return self._parts(theta, self._check(theta, "theta", (self.size,), f"[..., {self.size}]"))

    def _parts(self, theta: Any, lead: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
        """As `unpack`, of a theta that has been checked, with these leading axes."""
        w, b, c = self._ends
        return (
            theta[..., :w].reshape(*lead, self.width, self.inputs),
            theta[..., w:b],
            theta[..., b:c].reshape(*lead, self.outputs, self.width),
            theta[..., c:] if self.output_bias else None,
        )

    def pack(self, w: Any, b: Any, c: Any, a: Any = None) -> Any:
        """theta [..., D], new, from w [..., M, d], b [..., M], c [..., C, M] and, with output_bias, a.

        The weights of two nn.Linear are those of scaling="none"; under the default, "mean", their sum is
        divided by M once more. `from_torch` takes a module as it is.

        All of one dtype (TypeError) and with the same leading axes (ValueError).
        """
        if (a is not None) != self.output_bias:
            expected = f"have shape [..., {self.outputs}]" if self.output_bias else "be None"
            got = "None" if a is None else kind(a)
            raise ValueError(f"a must {expected} for output_bias={self.output_bias}, got {got}")
        shapes = {"w": (self.width, self.inputs), "b": (self.width,), "c": (self.outputs, self.width)}
        parts = {"w": w, "b": b, "c": c}
        if a is not None:
            shapes["a"], parts["a"] = (self.outputs,), a
        lead = self._check(w, "w", shapes["w"], f"[..., {self.width}, {self.inputs}]")
        dtype = view(w, "w").dtype
        flat = []
        for name, value in parts.items():
            part = view(value, name)
            if part.dtype != dtype:
                raise TypeError(f"{name} must be {dtype} as w is, got {part.dtype}")
            if part.shape != lead + shapes[name]:
                raise ValueError(f"{name} must have shape {[*lead, *shapes[name]]}, got {list(part.shape)}")
            flat.append(part.reshape(*lead, math.prod(shapes[name])))
        return like(w, np.concatenate(flat, axis=-1))

    @classmethod
    def from_torch(cls, module: Any) -> tuple[TwoLayer, Any]:
        """The network of a PyTorch module, with scaling="none", and its parameters: (net, theta [1, D]).

        module: a torch.nn.Sequential of Linear, activation, Linear. The activation is ReLU, Tanh, Sigmoid,
        GELU(approximate="none"), Softplus() (PyTorch's is linear from 20 on, 2e-9 below the exact one),
        Identity, LeakyReLU() (its slope is 0.01) or SiLU. A first Linear without bias has biases of 0 here.
        theta is a new tensor on the module's device, of its dtype; the outputs are the module's.

        ValueError for any other module, TypeError unless its parameters are float32 or float64.
        """
        found = _modules.read(module)
        net = cls(
            found.inputs, found.width, found.outputs, found.activation, scaling="none",
            output_bias=found.output_bias,
        )  # fmt: skip
        return net, found.theta

    def to_torch(self, theta: Any) -> Any:
        """A torch.nn.Sequential(Linear, activation, Linear) with the outputs of theta [D].

        Its parameters are new tensors of theta's dtype where theta lies; the scaling goes into the last
        layer. No random numbers are drawn.

        TypeError unless theta is a float32 or float64 array, ValueError unless its shape is [D] (of an
        ensemble take one network, theta[n]), and where PyTorch has no module of the activation: sin, erf,
        sign and step.
        """
        own = _modules.tensor(theta)
        if tuple(own.shape) != (self.size,):
            raise ValueError(f"theta must have shape [{self.size}], one network's, got {list(own.shape)}")
        w, b, c, a = self._parts(own, ())
        return _modules.write(self.activation, w, b, c / self.width if self.scaling == "mean" else c, a)

    def atoms(self, theta: Any) -> Any:
        """Atoms [..., M, d + 1 + C], new: (w, b, c) of each neuron of theta [..., D].

        ValueError for a network with output bias, which is no measure over neurons.
        """
        self._no_output_bias("atoms")
        w, b, c, _ = self.unpack(view(theta, "theta"))
        return like(theta, np.concatenate([w, b[..., None], np.swapaxes(c, -1, -2)], axis=-1))

    def from_atoms(self, atoms: Any) -> Any:
        """theta [..., D], new, from atoms [..., M, d + 1 + C]; the inverse of `atoms`."""
        self._no_output_bias("from_atoms")
        shape = (self.width, self._atom_size)
        self._check(atoms, "atoms", shape, f"[..., {shape[0]}, {shape[1]}]")
        a = view(atoms, "atoms")
        d = self.inputs
        return like(atoms, self.pack(a[..., :d], a[..., d], np.swapaxes(a[..., d + 1 :], -1, -2)))

    def uniform(
        self,
        particles: int,
        low: float = -1.0,
        high: float = 1.0,
        *,
        seed: int,
        dtype: Any = "float32",
        num_threads: int | None = None,
    ) -> Array:
        """Particles [N, D] with coordinates low + (high - low) u, u uniform on (0, 1).

        u = (w + 1/2) 2^-32 of the coordinate's Philox word in stream 1, step 0. ValueError unless
        low <= high, both finite, N >= 1 and seed in [0, 2^64).
        """
        particles = integer(particles, "particles", 1, WORD + 1)
        low, high = real(low, "low"), real(high, "high")
        if low > high or math.isinf(high - low):
            raise ValueError(f"high must be at least low = {low!r} by a finite distance, got {high!r}")
        return self._uniform(slice(0, particles), low, high, seed, dtype, num_threads)

    def _uniform(
        self, own: slice, low: float, high: float, seed: int, dtype: Any, num_threads: int | None
    ) -> Array:
        """Of the particles that `uniform` draws, these."""
        theta: Array = new_array((own.stop - own.start, self.size), float_dtype(dtype), "theta")
        _cpu.uniform(theta, low, high, (check_seed(seed), 1, 0, own.start), threads(num_threads))
        return theta

    def torch_default(
        self, particles: int, *, seed: int, dtype: Any = "float32", num_threads: int | None = None
    ) -> Array:
        """Particles [N, D] drawn as torch.nn.Linear initialises: U(-k, k) with k = 1/sqrt(fan_in).

        fan_in is d for w and b, M for c and a. The uniforms are those of `uniform`, as are the errors.
        """
        return self._torch_default(
            slice(0, integer(particles, "particles", 1, WORD + 1)), seed, dtype, num_threads
        )

    def _torch_default(self, own: slice, seed: int, dtype: Any, num_threads: int | None) -> Array:
        """Of the particles that `torch_default` draws, these."""
        theta = self._uniform(own, -1.0, 1.0, seed, dtype, num_threads)
        first = self._ends[1]
        theta[:, :first] *= theta.dtype.type(1 / math.sqrt(self.inputs))
        theta[:, first:] *= theta.dtype.type(1 / math.sqrt(self.width))
        return theta

    def _check(self, value: Any, name: str, tail: tuple[int, ...], expected: str) -> tuple[int, ...]:
        """Leading axes of an array whose last axes must be `tail`."""
        a = view(value, name)
        if a.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, got {a.dtype}")
        lead = a.ndim - len(tail)
        if lead < 0 or a.shape[lead:] != tail:
            raise ValueError(f"{name} must have shape {expected}, got {list(a.shape)}")
        return a.shape[:lead]

    def _no_output_bias(self, function: str) -> None:
        if self.output_bias:
            raise ValueError(f"{function} expects a network without output_bias, got {self}")


def of_raw_inputs(net: TwoLayer, theta: Any, mean: Any, scale: Any) -> Any:
    """Parameters [..., D], new, that do on x [d] what theta does on (x - mean) / scale: a first layer of
    w / scale and b - (w / scale) mean."""
    out = theta.copy()
    w, b, _, _ = net.unpack(out)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = w / scale
        b -= wide @ mean
        w[...] = wide
    return out


def check_network(net: Any) -> TwoLayer:
    """TypeError unless `net` is a TwoLayer."""
    if not isinstance(net, TwoLayer):
        raise TypeError(f"net must be a cbokernels.TwoLayer, got {net!r:.80}")
    return net
