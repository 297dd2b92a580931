"""Dense optical flow of whole batches on the training device: Farneback's method in torch.

    Gunnar Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003,
    in the form in which OpenCV computes it (`calcOpticalFlowFarneback` with a box window)

Around each pixel a frame is approximated by a quadratic polynomial (`_expand`). If the next frame is
this one moved by d, the two polynomials give two linear equations for d at each pixel
(`_write_equations`), which are summed over a window and solved (`_solve`). That is repeated with the
next frame's polynomials taken where the flow so far leads, from coarse copies of the frames to fine
ones.

`tasks.video.flow` makes its labels of this where they are computed on the device; on the loader's
workers it takes OpenCV itself. Up to float32's rounding the two are equal: same pyramid, borders,
weights and regularisation. There are only elementwise operations and gathers here, no products of
matrices and no convolutions, so TF32 never reaches the numbers, and nothing waits for a GPU.

Shapes: B clips, T frames, P = T - 1 pairs of frames, Y x X pixels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 3  # above full resolution, each half as large (a pyramid scale of 0.5) ...
SMALLEST = 32  # ... as long as both sides have so many pixels
WINDOW = 15  # pixels, side of the square over which equations are summed
ITERATIONS = 3  # on each level
REACH = 5  # pixels: the polynomial expansion looks at a square of 2 * REACH + 1
SIGMA = 1.2  # pixels, of the expansion's Gaussian weight
# Equations near the frame's edge count less: factors of the outermost pixels, from the edge.
EDGE = (0.14, 0.14, 0.4472, 0.4472, 0.4472)
REGULARISER = 1e-3  # added to the determinant of a window's mean equations
# Of x, x^3, x^5 and x^7 in OpenCV's arc tangent, for x in [0, 1].
ARC_TANGENT = (0.9997878412794807, -0.3258083974640975, 0.1555786518463281, -0.04432655554792128)
FAR = 1e6  # pixels, outside of any frame: where nothing determines the flow it stays finite


def farneback(grey_BTYX: Tensor) -> Tensor:
    """Displacement (dx, dy) of every pixel from each frame to the next: float32 (2, B, P, Y, X).

    `grey_BTYX`: float32, at least two frames of at least 2 x 2 pixels. Pixels are the unit; x points
    to the right, y down.
    """
    _, T, Y, X = grey_BTYX.shape
    assert grey_BTYX.dtype == torch.float32 and T > 1 and min(Y, X) > 1
    # Indices are computed in float32 within a frame and in int32 over all of them.
    assert Y * X <= 2**24 and grey_BTYX.numel() < 2**31
    flow = None
    for halvings in range(_levels(Y, X), -1, -1):
        size = round(Y * 0.5**halvings), round(X * 0.5**halvings)
        level = _Level(_resize(_blur(grey_BTYX, halvings), size))
        flow = level.still() if flow is None else _resize(flow, size) * 2
        for _ in range(ITERATIONS):
            flow = level.refine(flow)
    assert flow is not None
    return flow


def polar(dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Length and angle (radians in [0, 2 pi], from +x towards +y) of displacements.

    The angle is OpenCV's: an odd polynomial for the arc tangent, 0.3 degrees from it at most, so that
    on the edge of a sector (45 degrees!) a displacement falls on the same side.
    """
    across, along = dx.abs(), dy.abs()
    eps = np.finfo(np.float64).eps
    slope = torch.minimum(across, along) / (torch.maximum(across, along) + eps)
    square = slope * slope
    series = torch.full_like(slope, math.degrees(ARC_TANGENT[-1]))
    for factor in ARC_TANGENT[-2::-1]:
        series = series * square + math.degrees(factor)
    angle = series * slope
    angle = torch.where(across >= along, angle, 90 - angle)
    angle = torch.where(dx < 0, 180 - angle, angle)
    angle = torch.where(dy < 0, 360 - angle, angle)
    return (dx * dx + dy * dy).sqrt(), angle * math.radians(1)


# -- the pyramid ---


def _levels(Y: int, X: int) -> int:
    """How many halvings leave both sides SMALLEST pixels, at most LEVELS."""
    fits = [min(Y, X) * 0.5**k >= SMALLEST for k in range(1, LEVELS + 1)]
    return sum(fits)


def _blur(grey: Tensor, halvings: int) -> Tensor:
    """(..., Y, X), smoothed before it is halved so many times; a little even if not at all."""
    taps = _gaussian(halvings)
    reach = len(taps) // 2
    for dim in (-1, -2):
        length = grey.shape[dim]
        padded = grey.index_select(dim, _mirrored(length, reach, grey.device))
        grey = padded.narrow(dim, reach, length) * taps[reach]
        for k in range(1, reach + 1):
            both = padded.narrow(dim, reach - k, length) + padded.narrow(dim, reach + k, length)
            grey.add_(both, alpha=taps[reach + k])
    return grey


@cache
def _gaussian(halvings: int) -> tuple[float, ...]:
    """The taps of `_blur`, an odd number: five standard deviations, as OpenCV chooses them."""
    sigma = (2**halvings - 1) / 2
    if sigma == 0:
        return (0.25, 0.5, 0.25)
    reach = max(round(sigma * 5) | 1, 3) // 2
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return tuple((weights / weights.sum()).tolist())


def _mirrored(length: int, reach: int, device: torch.device) -> Tensor:
    """Indices of a row that goes on as its mirror image; its outermost pixels are not repeated."""
    period = 2 * (length - 1)
    at = torch.arange(-reach, length + reach, device=device).abs() % period
    return torch.minimum(at, period - at)


def _resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., Y, X) at another size: bilinear, without antialiasing."""
    if planes.shape[-2:] == size:
        return planes
    flat = planes.reshape(1, -1, *planes.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear").view(*planes.shape[:-2], *size)


# -- polynomials ---


class _Weights(NamedTuple):
    """Of the polynomial expansion: a Gaussian g and its products with x and x^2 at x = 0..REACH; and
    what is not zero of the inverse normal matrix.
    """

    g: tuple[float, ...]
    xg: tuple[float, ...]
    xxg: tuple[float, ...]
    linear: float  # of x, and of y
    mixed: float  # of the constant with x^2, and with y^2
    square: float  # of x^2, and of y^2
    cross: float  # of xy


@cache
def _weights() -> _Weights:
    at = np.arange(-REACH, REACH + 1)
    g = np.exp(-(at**2) / (2 * SIGMA**2))
    g /= g.sum()
    y, x = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].reshape(2, -1)
    basis = np.stack([np.ones_like(x), x, y, x**2, y**2, x * y])
    inverse = np.linalg.inv(basis * np.outer(g, g).ravel() @ basis.T)
    taps = [tuple(w[REACH:].tolist()) for w in (g, at * g, at**2 * g)]
    linear, mixed, square, cross = inverse[[1, 0, 3, 5], [1, 3, 3, 5]].tolist()
    return _Weights(taps[0], taps[1], taps[2], linear, mixed, square, cross)


def _expand(grey: Tensor) -> Tensor:
    """(..., Y, X) -> (5, ..., Y, X): the factors of y, x, y^2, x^2 and xy around each pixel."""
    w = _weights()
    flat = grey.reshape(1, -1, *grey.shape[-2:])
    padded = F.pad(flat, (REACH,) * 4, mode="replicate")[0]
    ones, ys, yys = _moments(padded, -2)
    b1, bx, bxx = _moments(ones, -1)
    by, bxy, _ = _moments(ys, -1)
    byy, _, _ = _moments(yys, -1)
    out = grey.new_empty((5, *b1.shape))
    torch.mul(by, w.linear, out=out[0])
    torch.mul(bx, w.linear, out=out[1])
    b1.mul_(w.mixed)
    torch.add(b1, byy, alpha=w.square, out=out[2])
    torch.add(b1, bxx, alpha=w.square, out=out[3])
    torch.mul(bxy, w.cross, out=out[4])
    return out.view(5, *grey.shape)


def _moments(padded: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums along a dimension weighted with g, xg and xxg; they use up REACH pixels at both ends."""
    w = _weights()
    length = padded.shape[dim] - 2 * REACH
    zeroth = padded.narrow(dim, REACH, length) * w.g[0]
    first, second = torch.zeros_like(zeroth), torch.zeros_like(zeroth)
    for k in range(1, REACH + 1):
        before = padded.narrow(dim, REACH - k, length)
        after = padded.narrow(dim, REACH + k, length)
        even = after + before
        zeroth.add_(even, alpha=w.g[k])
        first.add_(after - before, alpha=w.xg[k])
        second.add_(even, alpha=w.xxg[k])
    return zeroth, first, second


# -- displacement ---


class _Level:
    """The frames at one size: makes a flow a better one.

    Its large buffers are used again and again: fresh memory costs a CPU as much as the arithmetic.
    """

    def __init__(self, grey_BTYX: Tensor) -> None:
        B, T, Y, X = grey_BTYX.shape
        device, new = grey_BTYX.device, grey_BTYX.new_empty
        self.coefficients = _expand(grey_BTYX)
        self.size = B, T - 1, Y, X
        self.padded = new((5, B, T - 1, Y + WINDOW - 1, X + WINDOW - 1))
        self.buffers = new((3, self.padded.numel()))
        self.edge = _edge(Y, X, device)
        self.x = torch.arange(X, device=device, dtype=torch.float32)
        self.y = torch.arange(Y, device=device, dtype=torch.float32)[:, None]
        # Index of the first pixel of each pair's second frame among all pixels.
        frames = torch.arange(B * T, device=device, dtype=torch.int32).view(B, T)
        self.origin = (frames[:, 1:] * (Y * X))[..., None, None]

    def still(self) -> Tensor:
        """No displacement, which the coarsest level starts from."""
        return self.padded.new_zeros((2, *self.size))

    def refine(self, flow: Tensor) -> Tensor:
        """(2, B, P, Y, X) -> the same, nearer to the truth."""
        self._write_equations(flow)
        return _solve(_window_sums(self.padded, self.buffers))

    def _write_equations(self, flow: Tensor) -> None:
        """The normal equations of the displacement at each pixel, into the middle of `padded`: the
        matrix (yy, xy, xx) and the right side (y, x).
        """
        dx, dy = flow
        inside = self._sample(flow)
        before, after = self.coefficients[:, :, :-1], self._buffer(0)
        # Half of the sum of both frames' coefficients; of the first one's alone where the flow
        # leads out of the frame.
        share = inside.mul_(-0.5).add_(1).mul_(self.edge)
        ryy, rxx, rxy = after[2:].add_(before[2:]).mul_(share)
        rxy.mul_(0.5)
        ry, rx = after[:2].sub_(before[:2]).mul_(self.edge * -0.5)
        ry.addcmul_(ryy, dy).addcmul_(rxy, dx)
        rx.addcmul_(rxy, dy).addcmul_(rxx, dx)
        reach = WINDOW // 2
        yy, xy, xx, y, x = self.padded[..., reach:-reach, reach:-reach]
        torch.mul(ryy, ryy, out=yy).addcmul_(rxy, rxy)
        torch.add(ryy, rxx, out=xy).mul_(rxy)
        torch.mul(rxx, rxx, out=xx).addcmul_(rxy, rxy)
        torch.mul(ryy, ry, out=y).addcmul_(rxy, rx)
        torch.mul(rxy, ry, out=x).addcmul_(rxx, rx)

    def _sample(self, flow: Tensor) -> Tensor:
        """The next frame's coefficients where the flow leads (bilinear), into buffer 0. Returns
        whether that is inside the frame, 1.0 or 0.0; outside they are 0.

        Not by `grid_sample`: its coordinates, from -1 to 1, place a pixel 1e-5 pixels beside itself,
        and the labels of patches that hardly move are made of less (0.7 % of all would change).
        """
        _, _, Y, X = self.size
        x, y = flow[0] + self.x, flow[1] + self.y
        left, top = x.floor(), y.floor()
        inside = ((left >= 0) & (left < X - 1) & (top >= 0) & (top < Y - 1)).float()
        right, down = x.sub_(left).mul_(inside), y.sub_(top).mul_(inside)
        index = top.clamp_(0, Y - 2).mul_(X).add_(left.clamp_(0, X - 2)).int()
        index = index.add_(self.origin).flatten()
        upper = self._gather(index, 0).lerp_(self._gather(index.add_(1), 1), right)
        lower = self._gather(index.add_(X - 1), 1).lerp_(self._gather(index.add_(1), 2), right)
        upper.lerp_(lower, down).mul_(inside)
        return inside

    def _gather(self, index: Tensor, i: int) -> Tensor:
        """The coefficients of pixels, in buffer i."""
        buffer = self._buffer(i)
        torch.index_select(self.coefficients.flatten(1), 1, index, out=buffer.flatten(1))
        return buffer

    def _buffer(self, i: int) -> Tensor:
        shape = (5, *self.size)
        return self.buffers[i, : math.prod(shape)].view(shape)


@cache
def _edge(Y: int, X: int, device: torch.device) -> Tensor:
    """The product of the EDGE factors of each pixel, (Y, X)."""
    sides = []
    for length in (Y, X):
        side = np.ones(length, np.float32)
        for k, factor in enumerate(EDGE[:length]):
            side[k] *= factor
            side[-1 - k] *= factor
        sides.append(side)
    return torch.from_numpy(np.outer(*sides)).to(device)


def _window_sums(padded: Tensor, buffers: Tensor) -> Tensor:
    """Over WINDOW x WINDOW pixels, those of the edge repeated as often as needed; in buffer 1.

    Fifteen neighbours are five times three: six additions instead of fourteen.
    """
    reach = WINDOW // 2
    middle = padded[..., reach:-reach]
    middle[..., :reach, :] = middle[..., reach : reach + 1, :]
    middle[..., -reach:, :] = middle[..., -reach - 1 : -reach, :]
    padded[..., :reach] = padded[..., reach : reach + 1]
    padded[..., -reach:] = padded[..., -reach - 1 : -reach]
    sums = padded
    for dim in (-2, -1):
        sums = _neighbours(sums, dim, count=3, step=1, out=buffers[0])
        sums = _neighbours(sums, dim, count=WINDOW // 3, step=3, out=buffers[1])
    return sums


def _neighbours(planes: Tensor, dim: int, *, count: int, step: int, out: Tensor) -> Tensor:
    """Sums of `count` pixels, `step` apart, along a dimension; in the memory of `out`."""
    length = planes.shape[dim] - (count - 1) * step
    first, second, *others = (planes.narrow(dim, k * step, length) for k in range(count))
    sums = out[: first.numel()].view(first.shape)
    torch.add(first, second, out=sums)
    for other in others:
        sums.add_(other)
    return sums


def _solve(sums: Tensor) -> Tensor:
    """The displacement (dx, dy) that solves each window's equations, (2, B, P, Y, X)."""
    yy, xy, xx, y, x = sums
    # Sums are WINDOW^2 times the means that the regulariser is meant for, their products WINDOW^4
    # times. The determinant is never negative, but its rounding may be.
    determinant = (yy * xx).addcmul_(xy, xy, value=-1).clamp_(min=0).add_(REGULARISER * WINDOW**4)
    flow = sums.new_empty((2, *yy.shape))
    torch.mul(yy, x, out=flow[0]).addcmul_(xy, y, value=-1)
    torch.mul(xx, y, out=flow[1]).addcmul_(xy, x, value=-1)
    return flow.div_(determinant).clamp_(-FAR, FAR)
