"""Slow literal twins of ROAD: removal by sorting, imputation as one system of equations in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from tame.types import RemovalOrder

NEIGHBOURS = [
    (dy, dx, 1 / 6 if 0 in (dy, dx) else 1 / 12) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
]


def literal_removal(relevance: Tensor, remove: float, order: RemovalOrder) -> Tensor:
    """Remove floor(remove * HW) pixels of a map (H, W): bool (H, W). Lists and Python's sort."""
    values = relevance.flatten().tolist()
    sign = -1 if order == "morf" else 1
    first = sorted(range(len(values)), key=lambda pixel: (sign * values[pixel], pixel))
    gone = torch.zeros(len(values), dtype=torch.bool)
    gone[first[: math.floor(remove * len(values) + 1e-9)]] = True
    return gone.view(relevance.shape)


def literal_percentile_removal(relevance: Tensor, remove: float, order: RemovalOrder) -> Tensor:
    """Remove what reaches numpy's percentile of a map (H, W), of 1 - map for ``lerf``: bool (H, W)."""
    values = (relevance if order == "morf" else 1 - relevance).numpy()
    return torch.from_numpy(values >= np.percentile(values, 100 * (1 - remove)))


def literal_system(image: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (n, n) and b (n, C) of the n removed pixels in row-major order, one equation at a time.

    ``d_i x_i - sum of w_ij x_j over removed j = sum of w_ij x_j over kept j``, d_i the sum of w_ij over all j.
    """
    height, width = removed.shape
    pixels = [tuple(pixel) for pixel in removed.nonzero().tolist()]
    matrix = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    known = torch.zeros(len(pixels), len(image), dtype=torch.float64)
    for row, (y, x) in enumerate(pixels):
        for dy, dx, weight in NEIGHBOURS:
            other = (y + dy, x + dx)
            if not (0 <= other[0] < height and 0 <= other[1] < width):
                continue
            matrix[row, row] += weight
            if removed[other]:
                matrix[row, pixels.index(other)] -= weight
            else:
                known[row] += weight * image[:, other[0], other[1]].double()
    return matrix, known


def literal_imputation(image: Tensor, removed: Tensor) -> Tensor:
    """Impute an image (C, H, W) by its dense system; float64. Some pixel must be kept."""
    filled = image.double()
    filled[:, removed] = torch.linalg.solve(*literal_system(image, removed)).T
    return filled


def direct_imputation(image: Tensor, removed: Tensor) -> Tensor:
    """Impute an image (C, H, W) by one sparse direct solve for all channels; (C, H, W) float64.

    With scipy's default order of the columns: the one for symmetric matrices takes minutes on scattered pixels.

    Args:
        image: Any range.
        removed: Bool (H, W). All removed: the channel means.
    """
    values = image.double()
    if removed.all():
        return values.mean((1, 2), keepdim=True).expand_as(values).clone()
    if not removed.any():
        return values
    missing = removed.numpy()
    numbers = np.full((missing.shape[0] + 2, missing.shape[1] + 2), -2)  # -2: outside, -1: kept
    numbers[1:-1, 1:-1] = np.where(missing, np.cumsum(missing).reshape(missing.shape) - 1, -1)
    pixels = np.pad(values.numpy(), ((0, 0), (1, 1), (1, 1)))
    y, x = np.nonzero(missing)
    unknowns = np.arange(len(y))
    diagonal, known = np.zeros(len(y)), np.zeros((len(y), len(values)))
    rows, columns, weights = [], [], []
    for dy, dx, weight in NEIGHBOURS:
        other = (y + 1 + dy, x + 1 + dx)
        number = numbers[other]
        diagonal += weight * (number > -2)
        known += weight * (number == -1)[:, None] * pixels[:, other[0], other[1]].T
        between = number >= 0
        rows.append(unknowns[between])
        columns.append(number[between])
        weights.append(np.full(between.sum(), -weight))
    matrix = coo_matrix(
        (
            np.concatenate([diagonal, *weights]),
            (np.concatenate([unknowns, *rows]), np.concatenate([unknowns, *columns])),
        ),
        shape=(len(y), len(y)),
    )
    solution = spsolve(matrix.tocsc(), known)
    filled = values.clone()
    filled[:, removed] = torch.from_numpy(solution.reshape(len(y), -1).T)
    return filled
