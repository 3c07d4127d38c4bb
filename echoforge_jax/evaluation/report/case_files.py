"""One small file per clip, which the report page loads when it is looked at.

A page opened from disk may not fetch files, but it may add <script> tags: each file is one call
that hands its clip over. Frames are a JPEG strip, label maps run lengths, so that a clip of ten 256
x 256 frames takes about 0.1 MB.
"""

import base64
import hashlib
import json
import pathlib
import re

import cv2
import numpy as np

from echoforge_jax import textio
from echoforge_jax.evaluation.scoring import Case, ClipScore

FOLDER = 'cases'
_JPEG_QUALITY = 82


def case_id(patient: str, view: str) -> str:
  """Returns a clip's name of letters, digits, '_' and '-', safe in file names and addresses.

  A hash is added where characters were replaced.
  """
  name = f'{patient}_{view}'
  safe = re.sub(r'[^A-Za-z0-9_-]', '-', name)[:80]
  if safe == name:
    return safe
  return f'{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'


class CaseFiles:
  """Writes the files of clips while an evaluation streams past, and counts them."""

  def __init__(self, report_dir):
    """Removes an earlier evaluation's files from report_dir/cases/."""
    self.folder = pathlib.Path(report_dir) / FOLDER
    self.total_bytes = self.count = 0
    for old in self.folder.glob('*.js'):
      old.unlink()

  def add(self, case: Case, score: ClipScore) -> None:
    """Writes the file of one clip; nothing where it has no frames."""
    if case.frames is None:
      return
    name = case_id(case.patient, case.view)
    content = textio.to_json(_content(case, score))
    content = json.dumps(content, allow_nan=False, separators=(',', ':'))
    text = f'echoforgeCase({json.dumps(name)},{content});\n'
    self.folder.mkdir(parents=True, exist_ok=True)
    (self.folder / f'{name}.js').write_text(text)
    self.total_bytes += len(text)
    self.count += 1


def _run_lengths(labels: np.ndarray) -> list[int]:
  """Returns row-major run lengths of a label map: [value, length, value, ...]."""
  flat = labels.ravel()
  starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
  lengths = np.diff(np.r_[starts, flat.size])
  return np.stack([flat[starts], lengths], axis=1).ravel().tolist()


def _content(case: Case, score: ClipScore) -> dict:
  """Returns everything the viewer shows of a clip."""
  count, height, width = case.frames.shape
  row, column = case.spacing()
  dice: dict[str, list] = {}
  for entry in score.frames:
    series = dice.setdefault(entry['class'], [None] * count)
    series[entry['frame']] = entry['dice']
  strip = case.frames.reshape(count * height, width)
  done, strip = cv2.imencode('.jpg', strip, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
  if not done:
    raise OSError(f'{case.patient} {case.view}: frames cannot be encoded')
  return {
    'patient': case.patient,
    'view': case.view,
    'frames': count,
    'height': height,
    'width': width,
    'unit': score.unit,
    'aspect': float(column * width / (row * height)),
    'strip': 'data:image/jpeg;base64,' + base64.b64encode(strip).decode(),
    'truth': [_run_lengths(m) if known else None for m, known in zip(case.truth, case.known)],
    'prediction': [_run_lengths(m) for m in case.prediction],
    'dice': dice,
    'areas': score.areas,
    'truth_areas': score.truth_areas,
  }
