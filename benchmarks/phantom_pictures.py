"""Redraws the phantom's pictures in docs/images (seeds are fixed below).

.venv/bin/python benchmarks/phantom_pictures.py
"""

from pathlib import Path

import cv2
import jax
import numpy as np

from echoforge_jax.phantom import patient, stream
from echoforge_jax.phantom.config import QUALITIES, PhantomConfig

OUT = Path(__file__).parents[1] / 'docs' / 'images'
# Blue, green, red of the outlines of cavity, muscle and left atrium.
COLORS = {1: (80, 220, 80), 2: (80, 80, 240), 3: (240, 170, 60)}
# Patients of seed 1 whose groups differ.
SHOWN = (2, 3, 5, 6, 7)


def tile(frame, mask=None, width=210, height=176):
  """One frame on a black tile, with outlines where `mask` is given."""
  scale = min(width / frame.shape[1], height / frame.shape[0])
  method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  image = cv2.cvtColor(
    cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method), cv2.COLOR_GRAY2BGR
  )
  image = image // 12 * 12  # Fewer gray levels: much smaller files.
  if mask is not None:
    for label, color in COLORS.items():
      inside = cv2.resize((mask == label).astype(np.float32), image.shape[1::-1]) > 0.5
      contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
      )
      cv2.drawContours(image, contours, -1, color, 1)
  out = np.zeros((height, width, 3), np.uint8)
  left = (width - image.shape[1]) // 2
  out[: image.shape[0], left : left + image.shape[1]] = image
  return out


def save(name, rows):
  """Writes a sheet of tiles."""
  path = OUT / f'phantom_{name}.png'
  cv2.imwrite(
    str(path), np.vstack([np.hstack(row) for row in rows]), [cv2.IMWRITE_PNG_COMPRESSION, 9]
  )
  print(f'{path} {path.stat().st_size // 1024} KB')


def patients_and_grades():
  """Five patients in both views; three clips of each image quality."""
  rows, grades = [], {grade: [] for grade in QUALITIES}
  for index in range(1, 13):
    clips = patient.generate_patient(1, index).clips
    row = []
    for view in ('4CH', '2CH'):
      clip = clips[view]
      row += [
        tile(clip.frames[clip.ed]),
        tile(clip.frames[clip.ed], clip.masks[clip.ed]),
        tile(clip.frames[clip.es], clip.masks[clip.es]),
      ]
      grades[clip.quality].append(row[-3:-1])
    if index in SHOWN:
      rows.append(row)
  save('patients', rows)
  save('quality', [sum(tiles[1:4], []) for tiles in grades.values()])


def streamed():
  """First and last frames of domain-randomized clips."""
  draw = stream.jitted(8, 4, 112, PhantomConfig.randomized())
  rows = []
  for seed in (11, 12, 13):
    batch = jax.device_get(draw(jax.random.key(seed)))
    video = (batch['video'][..., 0] * 255).astype(np.uint8)
    for half in (range(4), range(4, 8)):
      rows.append(
        [
          tile(video[j, t], batch['masks'][j, t] if t else None, 150, 150)
          for j in half
          for t in (0, 3)
        ]
      )
  save('stream', rows)


if __name__ == '__main__':
  patients_and_grades()
  streamed()
