"""Distances between the outlines of two masks: HD, HD95 and ASD.

The outline of a mask is the mask minus its erosion by the four-neighbour cross; what lies outside
the image counts as background, so a mask that is cut by the image border has outline pixels there.
Distances run from pixel centre to pixel centre on the true, possibly anisotropic, spacing.

Where other tools differ:
  * SimpleITK's `HausdorffDistanceImageFilter` works on whole masks: a pixel of A that lies inside B
    counts as distance zero. On the outlines of both masks it returns exactly what `hd` is here; on
    the masks themselves it agrees where both are convex and may be smaller or larger where they are
    not.
  * SimpleITK's notebook recipe for the average distance takes the distances to the outline
    (`SignedMaurerDistanceMap`) at the pixels of `LabelContour`, and pools both directions as done
    here. Its contours drop the pixels on the image border; elsewhere the numbers are the same if
    the map is that of the contour.
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
  """Outline distances of one frame, in mm or, without a spacing, in pixels.

  Attributes:
    hd: Hausdorff distance, the largest of both directions.
    hd95: the larger of both directed 95th percentiles.
    asd: mean over the pooled distances of both outlines.
  """

  hd: float
  hd95: float
  asd: float


def outline(mask: Bool[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Returns the mask's pixels with a four-neighbour outside it or the image."""
  # Erosion by the cross, as four comparisons: a tenth of scipy's time.
  padded = np.pad(mask, 1)
  inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
  return mask & ~inner


def crop(mask: Bool[np.ndarray, 'h w']) -> tuple[Bool[np.ndarray, 'a b'], tuple[int, int]]:
  """Returns (view of the bounding box, (row, column) of its first pixel).

  The mask must not be empty. Most of a frame is background.
  """
  rows = np.flatnonzero(mask.any(axis=1))
  columns = np.flatnonzero(mask.any(axis=0))
  top, left = int(rows[0]), int(columns[0])
  return mask[top : rows[-1] + 1, left : columns[-1] + 1], (top, left)


def directed_distances(
  truth: Bool[np.ndarray, 'h w'],
  prediction: Bool[np.ndarray, 'h w'],
  spacing: tuple[float, float] = (1.0, 1.0),
) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' m']]:
  """Measures every outline pixel's distance to the other outline.

  Args:
    truth: not empty.
    prediction: not empty.
    spacing: size of a pixel (row, column).

  Returns:
    (from truth to prediction [N], from prediction to truth [M]).
  """
  points = [_outline_points(mask, spacing) for mask in (truth, prediction)]
  trees = [spatial.cKDTree(p) for p in points]
  return (trees[1].query(points[0])[0], trees[0].query(points[1])[0])


def surface_distances(
  truth: Bool[np.ndarray, 'h w'],
  prediction: Bool[np.ndarray, 'h w'],
  spacing: tuple[float, float] | None = None,
) -> SurfaceDistances:
  """Measures HD, HD95 and ASD between two masks.

  Args:
    truth: bool [H, W].
    prediction: bool [H, W].
    spacing: mm per pixel (row, column); None measures in pixels.

  Returns:
    All NaN (not applicable) where both masks are empty; the diagonal of the field of view, hypot(H
    * row, W * column), where exactly one is.
  """
  spacing = (1.0, 1.0) if spacing is None else tuple(map(float, spacing))
  filled = truth.any(), prediction.any()
  if not any(filled):
    return SurfaceDistances(math.nan, math.nan, math.nan)
  if not all(filled):
    rows, columns = truth.shape
    diagonal = math.hypot(rows * spacing[0], columns * spacing[1])
    return SurfaceDistances(diagonal, diagonal, diagonal)
  there, back = directed_distances(truth, prediction, spacing)
  return SurfaceDistances(
    hd=float(max(there.max(), back.max())),
    hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
    asd=float((there.sum() + back.sum()) / (there.size + back.size)),
  )


def _outline_points(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
  """Outline pixel centres [N, 2] in units of the spacing.

  Only the bounding box is eroded: the frame around it is background, so that cropping cannot change
  the outline.
  """
  box, corner = crop(mask)
  return (np.argwhere(outline(box)) + corner) * np.asarray(spacing)
