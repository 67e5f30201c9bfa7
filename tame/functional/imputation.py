"""Linear imputation: removed pixels become the weighted mean of their neighbours, solved by multigrid on any device.

Every removed pixel i asks for ``sum_j w_ij (x_j - x_i) = 0`` over its in-image neighbours j, with w = 1/6 for the four
direct and 1/12 for the four diagonal ones. Multiplied by 12 this reads ``A x = b`` with a symmetric M-matrix A, which
the channels share. `impute` solves it by conjugate gradients, preconditioned by one multigrid V-cycle:

- The finest level needs no matrix: the weights are the binomial kernel [1 2 1]^T [1 2 1] less its centre, two
  additions per axis.
- A coarser level has every second row and column, bilinear interpolation P and the Galerkin matrix P^T A P: nine
  values per point again, and one convolution of the finer level's nine planes (`_GALERKIN`).
- The smoother divides by ``max(a_ii, 0.6 sum_j |a_ij|)``, so it contracts whatever the removed pixels look like.
- The coarsest level, at most 8 x 8 points, is solved directly.

An iteration divides the error by about ten, also for large regions. The residual that conjugate gradients carry along
drifts away from the true one, by a hundredth of the range in long dead ends; so it is computed anew from x, in float64,
where the error has become small. All else is float32.

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
_COARSEST = 64  # points that are solved directly
_MOST_ITERATIONS = 60  # ten are rarely needed
_REFRESH = 1 / 300  # of the error at the last float64 residual: time for the next
_TRUSTED = 50  # times the accepted error: from a larger one on, float32 hides too much to stop
_CHUNK = {"cpu": 2**19}  # values of a vector that stay in the cache
_LARGE_CHUNK = 2**27


def impute(
    images: Tensor,
    removed: Tensor,
    noise: Tensor | None = None,
    *,
    all_removed: Literal["mean", "zero"] = "mean",
    tolerance: float = 2e-5,
) -> Tensor:
    """Fill removed pixels linearly, any number of removed sets per image at once.

    Args:
        images: (B, C, H, W), any range.
        removed: Bool (B, R, H, W), R sets of pixels to remove from each image.
        noise: Added to the removed pixels, (B, C, H, W); None: nothing.
        all_removed: What an image becomes of which every pixel is removed: its channel ``mean``, or ``zero``.
        tolerance: Largest estimated error, as a share of the image's range.

    Returns:
        (B, R, C, H, W) of the images' type, at least float32. Kept pixels are unchanged.

    Raises:
        InputError: For other shapes or types.
        ArithmeticError: If the solution is not found, as for images with NaN.

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
        raise InputError(f"expected removed pixels of {tuple(images.shape)} images, got {tuple(removed.shape)}")
    images = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
    batch, channels, height, width = images.shape
    sets = removed.shape[1]
    filled = images.new_empty(batch * sets, channels, height, width)
    systems = max(1, _CHUNK.get(images.device.type, _LARGE_CHUNK) // max(1, channels * height * width))
    rows = torch.arange(batch, device=images.device).repeat_interleave(sets)
    masks = removed.flatten(0, 1).unsqueeze(1)  # (B * R, 1, H, W)
    with torch.autocast(images.device.type, enabled=False):  # half precision would solve another system
        for part in torch.arange(batch * sets, device=images.device).split(systems):
            filled[part] = _solve(images[rows[part]], masks[part].to(images.dtype), all_removed, tolerance)
    filled = filled.view(batch, sets, channels, height, width)
    return filled if noise is None else filled + noise.unsqueeze(1) * removed.unsqueeze(2)


def _solve(images: Tensor, mask: Tensor, all_removed: str, tolerance: float) -> Tensor:
    """Solve N systems at once: images (N, C, H, W), mask (N, 1, H, W) with 1 where removed."""
    count = (1 - mask).sum((2, 3), keepdim=True)
    none_known = images.mean((2, 3), keepdim=True) * (all_removed == "mean")
    mean = (images * (1 - mask)).sum((2, 3), keepdim=True) / count.clamp(min=1)
    start = torch.where(count > 0, mean, none_known)
    known = (images - start) * (1 - mask)  # an offset of the image costs no digits
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
    fresh = torch.ones_like(done)  # whose residual was computed from x itself
    error = torch.full_like(accepted, torch.inf)  # when it last was
    for _ in range(_MOST_ITERATIONS):
        correction = _cycle(levels, residual)  # close to the error itself, so its size tells when to stop
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
        step = torch.where(done | fresh | (curvature <= 0), 0, energy / curvature)  # finished systems stay as they are
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
    """The finest level: the removed pixels themselves, without a matrix.

    Args:
        mask: (N, 1, H, W), 1 where removed.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.weights = _box(torch.ones_like(mask[:1]))  # of all in-image neighbours and four times the pixel
        diagonal = (self.weights - 4) * mask
        self.inverse = _smoother(diagonal, diagonal + (_box(mask) - 4) * mask)

    def apply(self, x: Tensor) -> Tensor:
        """Return A x for x (N, C, H, W) that is 0 at kept pixels."""
        return (self.weights * x).sub_(_box(x)).mul_(self.mask)

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """Return b - A x."""
        return b - self.apply(x)

    def exact_residual(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return b - A x of some systems from their pixels, known and solved together, computed in float64."""
        exact = values if values.device.type == "mps" else values.double()  # which has no float64
        return _box(exact).sub_(self.weights * exact).mul_(self.mask[rows]).to(values.dtype)

    def planes(self) -> Tensor:
        """Return the matrix as nine planes, (N, 9, H, W): the value towards each neighbour."""
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
        planes: Its matrix, (N, 9, h, w).
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

    Diagonal alone would amplify rough errors where the removed pixels are scattered: eigenvalues then exceed 2. Of
    the matrix over these weights they are at most 1 / 0.6 (Gershgorin).
    """
    weights = torch.maximum(diagonal, 0.6 * absolute)
    return torch.where(weights > 0, 1 / weights, 0)


def _levels(pixels: _Pixels) -> list[_Pixels | _Coarse | Tensor]:
    """Return the levels, finest first; the last one is an inverse matrix (N, h w, h w)."""
    levels: list[_Pixels | _Coarse | Tensor] = [pixels]
    planes = pixels.planes()
    while planes.shape[2:].numel() > _COARSEST:
        planes = F.conv2d(_even_borders(planes), _GALERKIN.to(planes), stride=2)
        levels.append(_Coarse(planes))
    levels[-1] = _inverse(planes)  # also where a small image has no coarser level
    return levels


def _cycle(levels: list[_Pixels | _Coarse | Tensor], residual: Tensor) -> Tensor:
    """Return about A^-1 residual by one V-cycle from the first of the levels on."""
    level = levels[0]
    if isinstance(level, Tensor):
        return (residual.flatten(2) @ level).view_as(residual)  # the inverse is symmetric
    x = level.inverse * residual
    error = _interpolate(_cycle(levels[1:], _restrict(level.residual(residual, x))), residual.shape[2:])
    x = x.addcmul_(level.mask, error) if isinstance(level, _Pixels) else x.add_(error)
    return x.addcmul_(level.inverse, level.residual(residual, x))


def _box(x: Tensor) -> Tensor:
    """Convolve with [1 2 1]^T [1 2 1], zeros around."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., 1:] + padded[..., :-1]
    rows = rows[..., 1:] + rows[..., :-1]
    both = rows[..., 1:, :] + rows[..., :-1, :]
    return both[..., 1:, :] + both[..., :-1, :]


def _even_borders(x: Tensor) -> Tensor:
    """Pad with zeros so that coarse point I lies at 2 I + 1 with a neighbour at each side."""
    height, width = x.shape[2:]
    return F.pad(x, (1, 2 - width % 2, 1, 2 - height % 2))


def _restrict(x: Tensor) -> Tensor:
    """Return P^T x: (N, C, H, W) to (N, C, H // 2 + 1, W // 2 + 1)."""
    x = _even_borders(x)
    rows = (x[..., :-2:2] + x[..., 2::2]).mul_(0.5).add_(x[..., 1:-1:2])
    return (rows[..., :-2:2, :] + rows[..., 2::2, :]).mul_(0.5).add_(rows[..., 1:-1:2, :])


def _interpolate(x: Tensor, size: torch.Size) -> Tensor:
    """Return P x: bilinear, (N, C, h, w) to (N, C, *size)."""
    batch, channels, height, width = x.shape
    rows = x.new_empty(batch, channels, height, 2 * width - 1)
    rows[..., ::2] = x
    rows[..., 1::2] = (x[..., 1:] + x[..., :-1]).mul_(0.5)
    both = x.new_empty(batch, channels, 2 * height - 1, 2 * width - 1)
    both[..., ::2, :] = rows
    both[..., 1::2, :] = (rows[..., 1:, :] + rows[..., :-1, :]).mul_(0.5)
    return both[..., : size[0], : size[1]]


def _galerkin_weights() -> Tensor:
    """Return the convolution (9, 9, 3, 3) that turns the planes of A into those of P^T A P.

    The coarse value from I towards I + D is ``sum_u sum_d P(u) a_d(2 I + u) P(u + d - 2 D)``.
    """

    def hat(y: int, x: int) -> float:
        return max(0.0, 1 - abs(y) / 2) * max(0.0, 1 - abs(x) / 2) if max(abs(y), abs(x)) < 2 else 0.0

    values = [
        [
            [[hat(y, x) * hat(y + dy - 2 * to_y, x + dx - 2 * to_x) for x in (-1, 0, 1)] for y in (-1, 0, 1)]
            for dy, dx in _SHIFTS
        ]
        for to_y, to_x in _SHIFTS
    ]
    return torch.tensor(values)


_GALERKIN = _galerkin_weights()


def _inverse(planes: Tensor) -> Tensor:
    """Return the inverse (N, n, n) of a matrix given as planes (N, 9, h, w), n = h w.

    Fewer removed pixels than coarse points leave it singular, so its diagonal is raised a little.
    """
    batch, _, height, width = planes.shape
    points = torch.arange(height * width, device=planes.device).view(height, width)
    padded = F.pad(points, (1, 1, 1, 1), value=-1)
    matrix = planes.new_zeros(batch, points.numel(), points.numel())
    for plane, (dy, dx) in zip(planes.unbind(1), _SHIFTS, strict=True):
        neighbours = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        there = neighbours >= 0
        matrix[:, points[there], neighbours[there]] = plane[:, there]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal.copy_(torch.where(diagonal > 0, diagonal * (1 + 1e-4), 1))
    return torch.linalg.inv(matrix)
