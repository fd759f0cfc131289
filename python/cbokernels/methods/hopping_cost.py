"""What a step of consensus hopping costs, by the kind of its noise (docs/HOPPING.md has the table)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..network import TwoLayer

if TYPE_CHECKING:
    from .._cpu import KernelLoss
    from .hopping import ConsensusHopping

_CHUNK, _DRAWN = (
    2 << 20,
    1 << 18,
)  # bytes of the lines of some samples, and numbers of the draws kept at a time
_BLOCK, _FEWEST = 1 << 17, 256  # risks that are weighed together, and particles at least
_FITTED = 512  # particles at most whose differences are fitted together
_EXPONENTIALS = {"cross_entropy", "logistic"}


class Cost(NamedTuple):
    """What a step takes, besides activations.

    multiply_adds: of products and sums. exponentials: of the loss. normals: those made for the noise, which
    is made once more for the drift where the risks' draws are not kept. memory: about so many bytes on one
    thread of a CPU, besides data, centre and moments.
    """

    multiply_adds: int
    exponentials: int
    normals: int
    memory: int


def cost(
    method: ConsensusHopping, net: TwoLayer, particles: int, samples: int, loss: KernelLoss, item: int
) -> Cost:
    """Of a step on so many samples, `item` bytes a number."""
    n, s, m, d, c = particles, samples, net.width, net.inputs, net.outputs
    draws, r, columns = n // method._fold, method._rank, m if method.scope == "atom" else 1
    exponentials = n * s * columns * c if loss in _EXPONENTIALS else 0
    rows = min(n, max(_BLOCK // columns, _FEWEST), _FITTED if method._fits else n)
    weighed = 8 * (rows * columns + 2 * net.size)  # risks, drifts
    if r == 0:
        packed = item * s * d + item * net.size * method._fold
        return Cost(n * s * m * (d + c), exponentials, 2 * draws * net.size, weighed + packed)
    spanned = in_span(method, net, samples)
    length = s if spanned else d
    products = s * m * d + draws * r * length * (s + m) + n * s * m * (r + c)
    if spanned:
        products += s * m * d + s * s * d // 2
    numbers = r * length + net.size - m * d
    line = d + length + 2 * m + 3 * c + 2
    chunk = min(s, max(_CHUNK // (item * line), 1))
    each = numbers + r * (chunk + m)  # with factors, and X b
    most = min(max(_DRAWN // each, 1), draws)
    kept = item * (chunk * line + most * each) + 8 * m * length
    # factor and inverse, inputs in float64 by parts, and the samples that are not in a chunk
    span = 8 * (5 * s * s + s * d // 4) + item * (s - chunk) * (s + d) if spanned else 0
    made = 1 if most == draws else 2
    if method._fits:
        blocks = -(-n // rows)
        pairs = -(-draws // blocks)
        products += blocks * _fitting(net, r, pairs, length)
        made += pairs > most
        kept += 24 * pairs * pairs + 8 * pairs * length + 64 * pairs * (c + 4)
        kept += item * pairs * (numbers + r * m) if pairs > most else 0
    return Cost(products, exponentials, draws * numbers * made, weighed + kept + span)


def _fitting(net: TwoLayer, rank: int, pairs: int, length: int) -> int:
    """Multiply-adds that fit the differences of so many pairs' risks."""
    c, triangle = net.outputs + 1, pairs * pairs // 2
    root = triangle * length + pairs**3 // 6
    if rank > 1 or pairs <= c:  # each neuron has a matrix of its own
        return net.width * (root + triangle * (c + 2))
    own = triangle * (c + 2) + pairs * (c + 1) * (c + 4) // 2 + c**3 // 6
    return root + pairs**3 // 6 + net.width * own


def in_span(method: ConsensusHopping, net: TwoLayer, samples: int) -> bool:
    """Whether directions lie in the span of a batch of so many samples, if it has one."""
    return method.directions == "batch" and samples < net.inputs


def low_rank_reason(method: ConsensusHopping, net: TwoLayer, samples: int) -> str:
    """Why directions are what they are, in a sentence that says what would change it."""
    if in_span(method, net, samples):
        return f"with fewer than {net.inputs} samples, directions lie in the span of the batch's inputs"
    if samples < net.inputs:
        return "directions are free, as asked for: directions='batch' draws them in the span of the inputs"
    return f"with {net.inputs} samples or more, a batch spans all inputs, and directions are free"
