"""Linear imputation of removed pixels by the weighted mean of their neighbours, with a multigrid solver.

Every removed pixel i satisfies ``sum_j w_ij (x_j - x_i) = 0`` over its neighbours j in the image, with w = 1/6 for the
four direct and 1/12 for the four diagonal ones. Multiplied by 12, this is ``A x = b`` with a symmetric M-matrix A that
is the same for all channels. `impute` solves it by conjugate gradients, preconditioned by one multigrid V-cycle:

- The finest level stores no matrix: the weights are the binomial kernel [1 2 1]^T [1 2 1] without its centre, two
  additions per axis.
- Each coarser level has every second row and column, bilinear interpolation P and the Galerkin matrix P^T A P, which
  also has nine values per point and is one convolution of the finer level's nine planes (`_GALERKIN`).
- The smoother divides by ``max(a_ii, 0.6 sum_j |a_ij|)``, with which it converges for any set of removed pixels.
- The coarsest level, at most 8 x 8 points, is solved directly.

Each iteration reduces the error by a factor of about ten, also for large regions. The recursively updated residual of
conjugate gradients drifts away from the true one, by up to 1 % of the image's range in long narrow regions; when the
error is small, the residual is therefore recomputed from x in float64. All other computations are in float32.

Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ROAD), ICML 2022, for
the equations; Briggs et al., "A Multigrid Tutorial", 2000, for the solver.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tame.utils.checks import InputError

_SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
_CENTRE = 4
_COARSEST = 64  # largest number of points that is solved directly
_MAX_ITERATIONS = 60  # fewer than ten are usually needed
_REFRESH = 1 / 300  # the residual is recomputed when the error has decreased by this factor since the last time
_TRUSTED = 50  # solved only if the error was below this multiple of the tolerance when the residual was recomputed
_CHUNK = {"cpu": 2**19}  # number of values per vector, so that vectors fit in the cache
_LARGE_CHUNK = 2**27


def impute(
    images: Tensor,
    removed: Tensor,
    noise: Tensor | None = None,
    *,
    all_removed: Literal["mean", "zero"] = "mean",
    tolerance: float = 2e-5,
) -> Tensor:
    """Impute removed pixels linearly, for several sets of removed pixels per image at once.

    Args:
        images: (B, C, H, W), in any range.
        removed: Bool (B, R, H, W), R sets of pixels to remove from each image.
        noise: Noise added to the removed pixels, (B, C, H, W); default: none.
        all_removed: Value of an image of which all pixels are removed: its channel ``mean``, or ``zero``.
        tolerance: Largest estimated error, as a fraction of the image's range.

    Returns:
        (B, R, C, H, W) with the images' dtype, at least float32. Kept pixels are unchanged.

    Raises:
        InputError: For other shapes or dtypes.
        ArithmeticError: If the solver does not converge, for example for images with NaN.

    Example:
        >>> image = torch.tensor([[[[0.0, 9.0, 1.0]]]])  # the removed pixel has one neighbour at each side
        >>> impute(image, torch.tensor([[[[False, True, False]]]]))
        tensor([[[[[0.0000, 0.5000, 1.0000]]]]])
    """
    if images.ndim != 4 or removed.dtype != torch.bool or removed.ndim != 4:
        raise InputError(
            "expected images (B, C, H, W) and removed pixels (B, R, H, W) of type bool, "
            f"got {tuple(images.shape)} and {tuple(removed.shape)} of type {removed.dtype}"
        )
    if len(images) != len(removed) or images.shape[2:] != removed.shape[2:]:
        raise InputError(f"expected removed pixels for images {tuple(images.shape)}, got {tuple(removed.shape)}")
    images = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
    batch, channels, height, width = images.shape
    sets = removed.shape[1]
    filled = images.new_empty(batch * sets, channels, height, width)
    systems = max(1, _CHUNK.get(images.device.type, _LARGE_CHUNK) // max(1, channels * height * width))
    rows = torch.arange(batch, device=images.device).repeat_interleave(sets)
    masks = removed.flatten(0, 1).unsqueeze(1)  # (B * R, 1, H, W)
    with torch.autocast(images.device.type, enabled=False):  # half precision would change the system
        for part in torch.arange(batch * sets, device=images.device).split(systems):
            filled[part] = _solve(images[rows[part]], masks[part].to(images.dtype), all_removed, tolerance)
    filled = filled.view(batch, sets, channels, height, width)
    return filled if noise is None else filled + noise.unsqueeze(1) * removed.unsqueeze(2)


def _solve(images: Tensor, mask: Tensor, all_removed: str, tolerance: float) -> Tensor:
    """Solve N systems at once: images (N, C, H, W), mask (N, 1, H, W) with 1 for removed pixels."""
    count = (1 - mask).sum((2, 3), keepdim=True)
    none_known = images.mean((2, 3), keepdim=True) * (all_removed == "mean")
    mean = (images * (1 - mask)).sum((2, 3), keepdim=True) / count.clamp(min=1)
    start = torch.where(count > 0, mean, none_known)
    known = (images - start) * (1 - mask)  # without the offset of the image, for accuracy
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    rounding = torch.finfo(images.dtype).eps * torch.maximum(high.abs(), low.abs())
    accepted = tolerance * (high - low) + rounding  # (N, 1, 1, 1)

    pixels = _Pixels(mask)
    levels = _levels(pixels)
    x = torch.zeros_like(known)
    residual = _box(known).mul_(mask)
    direction = torch.zeros_like(x)
    energy = torch.full_like(start, torch.inf)
    done = torch.zeros_like(accepted, dtype=torch.bool)
    fresh = torch.ones_like(done)  # systems whose residual was just recomputed from x
    error = torch.full_like(accepted, torch.inf)  # estimated error when it was last recomputed
    for _ in range(_MAX_ITERATIONS):
        correction = _cycle(levels, residual)  # approximates the error, so its size is the stopping criterion
        size = correction.abs().amax((1, 2, 3), keepdim=True)
        error = torch.where(fresh, size, error)
        newly = ~done & (size <= accepted) & (error <= _TRUSTED * accepted)
        fresh = ~done & ~newly & (size <= _REFRESH * error)
        x.addcmul_(correction, (newly | fresh).to(x.dtype))
        done |= newly
        if bool(done.all()):
            return torch.where(mask > 0, x.add_(start), images)
        old, energy = energy, (residual * correction).sum((2, 3), keepdim=True)  # per channel
        direction.mul_(energy / old.clamp(min=torch.finfo(x.dtype).tiny)).add_(correction)
        image = pixels.apply(direction)
        curvature = (direction * image).sum((2, 3), keepdim=True)
        step = torch.where(done | fresh | (curvature <= 0), 0, energy / curvature)  # solved systems do not change
        x.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        again = fresh.flatten().nonzero().squeeze(1)
        if len(again):
            residual[again] = pixels.exact_residual(known[again] + x[again], again)
            energy[again] = torch.inf
    raise ArithmeticError(
        f"{int((~done).sum())} of {len(done)} images could not be imputed: expected finite values, "
        f"got values in [{images.min():.4g}, {images.max():.4g}]"
    )


class _Pixels:
    """The finest level: the removed pixels themselves, without a stored matrix.

    Args:
        mask: (N, 1, H, W), 1 for removed pixels.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.weights = _box(torch.ones_like(mask[:1]))  # sum of the weights of the pixel itself (4) and its neighbours
        diagonal = (self.weights - 4) * mask
        self.inverse = _smoother(diagonal, diagonal + (_box(mask) - 4) * mask)

    def apply(self, x: Tensor) -> Tensor:
        """Return A x, for x (N, C, H, W) that is 0 at kept pixels."""
        return (self.weights * x).sub_(_box(x)).mul_(self.mask)

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """Return b - A x."""
        return b - self.apply(x)

    def exact_residual(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return b - A x of the systems ``rows`` in float64, from their pixels ``values``, both known and solved."""
        exact = values if values.device.type == "mps" else values.double()  # MPS does not support float64
        return _box(exact).sub_(self.weights * exact).mul_(self.mask[rows]).to(values.dtype)

    def planes(self) -> Tensor:
        """Return the matrix as nine planes, (N, 9, H, W), one per neighbour."""
        height, width = self.mask.shape[2:]
        padded = F.pad(self.mask, (1, 1, 1, 1))
        planes = [
            -float((2 - abs(dy)) * (2 - abs(dx))) * padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            for dy, dx in _SHIFTS
        ]
        planes[_CENTRE] = self.weights - 4
        return torch.cat([plane * self.mask for plane in planes], 1)


class _Coarse:
    """A coarser level.

    Args:
        planes: Matrix of the level as nine planes, (N, 9, h, w).
    """

    def __init__(self, planes: Tensor) -> None:
        self.parts = planes.unbind(1)
        self.inverse = _smoother(planes[:, _CENTRE].unsqueeze(1), planes.abs().sum(1, keepdim=True))

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """Return b - A x for b and x (N, C, h, w)."""
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        result = b.clone()
        for part, (dy, dx) in zip(self.parts, _SHIFTS, strict=True):
            neighbour = padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            result.addcmul_(part.unsqueeze(1), neighbour, value=-1)
        return result


def _smoother(diagonal: Tensor, absolute: Tensor) -> Tensor:
    """Return the damped Jacobi weights of a matrix with this diagonal and these absolute row sums.

    The diagonal alone would amplify high-frequency errors of scattered pixels, where eigenvalues exceed 2. With these
    weights they are at most 1 / 0.6 (Gershgorin).
    """
    weights = torch.maximum(diagonal, 0.6 * absolute)
    return torch.where(weights > 0, 1 / weights, 0)


def _levels(pixels: _Pixels) -> list[_Pixels | _Coarse | Tensor]:
    """Return the levels, finest first; the last one is the inverse matrix of the coarsest level, (N, h w, h w)."""
    levels: list[_Pixels | _Coarse | Tensor] = [pixels]
    planes = pixels.planes()
    while planes.shape[2:].numel() > _COARSEST:
        planes = F.conv2d(_even_borders(planes), _GALERKIN.to(planes), stride=2)
        levels.append(_Coarse(planes))
    levels[-1] = _inverse(planes)  # replaces the finest level if the image is small
    return levels


def _cycle(levels: list[_Pixels | _Coarse | Tensor], residual: Tensor) -> Tensor:
    """Return an approximation of A^-1 residual by one V-cycle over ``levels``."""
    level = levels[0]
    if isinstance(level, Tensor):
        return (residual.flatten(2) @ level).view_as(residual)  # the inverse is symmetric
    x = level.inverse * residual
    error = _interpolate(_cycle(levels[1:], _restrict(level.residual(residual, x))), residual.shape[2:])
    x = x.addcmul_(level.mask, error) if isinstance(level, _Pixels) else x.add_(error)
    return x.addcmul_(level.inverse, level.residual(residual, x))


def _box(x: Tensor) -> Tensor:
    """Convolve with [1 2 1]^T [1 2 1], with zero padding."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., 1:] + padded[..., :-1]
    rows = rows[..., 1:] + rows[..., :-1]
    both = rows[..., 1:, :] + rows[..., :-1, :]
    return both[..., 1:, :] + both[..., :-1, :]


def _even_borders(x: Tensor) -> Tensor:
    """Pad with zeros so that coarse point I is at 2 I + 1 and has a neighbour on each side."""
    height, width = x.shape[2:]
    return F.pad(x, (1, 2 - width % 2, 1, 2 - height % 2))


def _restrict(x: Tensor) -> Tensor:
    """Return P^T x (restriction): (N, C, H, W) to (N, C, H // 2 + 1, W // 2 + 1)."""
    x = _even_borders(x)
    rows = (x[..., :-2:2] + x[..., 2::2]).mul_(0.5).add_(x[..., 1:-1:2])
    return (rows[..., :-2:2, :] + rows[..., 2::2, :]).mul_(0.5).add_(rows[..., 1:-1:2, :])


def _interpolate(x: Tensor, size: torch.Size) -> Tensor:
    """Return P x (bilinear interpolation): (N, C, h, w) to (N, C, *size)."""
    batch, channels, height, width = x.shape
    rows = x.new_empty(batch, channels, height, 2 * width - 1)
    rows[..., ::2] = x
    rows[..., 1::2] = (x[..., 1:] + x[..., :-1]).mul_(0.5)
    both = x.new_empty(batch, channels, 2 * height - 1, 2 * width - 1)
    both[..., ::2, :] = rows
    both[..., 1::2, :] = (rows[..., 1:, :] + rows[..., :-1, :]).mul_(0.5)
    return both[..., : size[0], : size[1]]


def _galerkin_weights() -> Tensor:
    """Return the convolution (9, 9, 3, 3) from the planes of A to those of P^T A P.

    The coarse value at I for its neighbour I + D is ``sum_u sum_d P(u) a_d(2 I + u) P(u + d - 2 D)``.
    """

    def hat(y: int, x: int) -> float:
        return max(0.0, 1 - abs(y) / 2) * max(0.0, 1 - abs(x) / 2) if max(abs(y), abs(x)) < 2 else 0.0

    def kernel(to_y: int, to_x: int, dy: int, dx: int) -> list[list[float]]:
        return [[hat(y, x) * hat(y + dy - 2 * to_y, x + dx - 2 * to_x) for x in (-1, 0, 1)] for y in (-1, 0, 1)]

    return torch.tensor([[kernel(*to, *shift) for shift in _SHIFTS] for to in _SHIFTS])


_GALERKIN = _galerkin_weights()


def _inverse(planes: Tensor) -> Tensor:
    """Return the inverse (N, n, n), n = h w, of a matrix stored as planes (N, 9, h, w).

    The matrix is singular if there are fewer removed pixels than coarse points, so its diagonal is slightly increased.
    """
    batch, _, height, width = planes.shape
    points = torch.arange(height * width, device=planes.device).view(height, width)
    padded = F.pad(points, (1, 1, 1, 1), value=-1)
    matrix = planes.new_zeros(batch, points.numel(), points.numel())
    for plane, (dy, dx) in zip(planes.unbind(1), _SHIFTS, strict=True):
        neighbours = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        inside = neighbours >= 0
        matrix[:, points[inside], neighbours[inside]] = plane[:, inside]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal.copy_(torch.where(diagonal > 0, diagonal * (1 + 1e-4), 1))
    return torch.linalg.inv(matrix)
