"""Distances between the outlines of two masks: HD, HD95 and ASD.

The outline of a mask is the mask minus its erosion by the four-neighbour cross; what lies outside
the image counts as background. Distances run from pixel centre to pixel centre on the true,
possibly anisotropic, spacing. Where other tools differ:
  * SimpleITK's `HausdorffDistanceImageFilter` works on whole masks: a pixel of A inside B counts as
    zero. On the outlines of both masks it returns exactly what `hd` is here.
  * SimpleITK's notebook recipe for the average distance (`SignedMaurerDistanceMap` at the pixels of
    `LabelContour`) pools both directions as done here, but drops the pixels on the image border.
  * medpy has the same outlines, but its `assd` averages the two directed means and its `hd95` takes
    the percentile of the pooled distances.
"""

import dataclasses
import math

from jaxtyping import Bool, Float
import numpy as np
from scipy import spatial


@dataclasses.dataclass(frozen=True)
class SurfaceDistances:
  """Outline distances of one frame, in mm or, without a spacing, in pixels."""

  hd: float  # The largest of both directions.
  hd95: float  # The larger of both directed 95th percentiles.
  asd: float  # Mean over the pooled distances of both outlines.


def outline(mask: Bool[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Returns the mask's pixels with a four-neighbour outside it or the image."""
  # Erosion by the cross, as four comparisons: a tenth of scipy's time.
  padded = np.pad(mask, 1)
  inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
  return mask & ~inner


def crop(mask: Bool[np.ndarray, 'h w']) -> tuple[Bool[np.ndarray, 'a b'], tuple[int, int]]:
  """Returns (bounding box of a mask that is not empty, (row, column) of its first pixel)."""
  rows = np.flatnonzero(mask.any(axis=1))
  columns = np.flatnonzero(mask.any(axis=0))
  top, left = int(rows[0]), int(columns[0])
  return mask[top : rows[-1] + 1, left : columns[-1] + 1], (top, left)


def directed_distances(
  truth: Bool[np.ndarray, 'h w'],
  prediction: Bool[np.ndarray, 'h w'],
  spacing: tuple[float, float] = (1.0, 1.0),
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' m']]:
  """Measures every outline pixel's distance to the other outline, of masks that are not empty.

  Returns:
    (from truth to prediction [N], from prediction to truth [M]), in the unit of the spacing.
  """
  points = [_outline_points(mask, spacing) for mask in (truth, prediction)]
  trees = [spatial.cKDTree(p) for p in points]
  return (trees[1].query(points[0])[0], trees[0].query(points[1])[0])


def surface_distances(
  truth: Bool[np.ndarray, 'h w'],
  prediction: Bool[np.ndarray, 'h w'],
  spacing: tuple[float, float] | None = None,
) -> SurfaceDistances:
  """Measures HD, HD95 and ASD; `spacing` is mm per pixel (row, column), None measures in pixels.

  All NaN (not applicable) where both masks are empty; the diagonal of the field of view where
  exactly one is.
  """
  spacing = (1.0, 1.0) if spacing is None else tuple(map(float, spacing))
  filled = truth.any(), prediction.any()
  if not any(filled):
    return SurfaceDistances(math.nan, math.nan, math.nan)
  if not all(filled):
    diagonal = math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1])
    return SurfaceDistances(diagonal, diagonal, diagonal)
  there, back = directed_distances(truth, prediction, spacing)
  return SurfaceDistances(
    hd=float(max(there.max(), back.max())),
    hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
    asd=float((there.sum() + back.sum()) / (there.size + back.size)),
  )


def _outline_points(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
  """Returns outline pixel centres [N, 2] in units of the spacing."""
  box, corner = crop(mask)  # Around it is background, so that cropping changes no outline.
  return (np.argwhere(outline(box)) + corner) * np.asarray(spacing)
