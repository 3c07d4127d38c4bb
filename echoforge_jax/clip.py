"""The clip: one apical view of one patient, as every room passes it on."""

import dataclasses

import numpy as np

# Label values of every mask in this project (CAMUS order).
LABELS = {'lv': 1, 'myo': 2, 'la': 3}
# Marks frames without a label in training batches; never a class.
IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Clip:
  """One view of one patient, frames in the order ED -> ES or a whole cycle.

  Attributes:
    patient: identifier, unique within a dataset ('patient0001').
    view: '2CH' or '4CH' ('A4C' clips of EchoNet are '4CH').
    frames: uint8 [T, H, W] gray levels.
    masks: uint8 [T, H, W] label values of `LABELS`; zero where unlabeled.
    labeled: bool [T], True where `masks` holds the provider's label.
    ed: index into `frames` of end-diastole; ed < es after reading CAMUS, but
      whole clips of EchoNet keep their order, and ES may come first.
    es: index into `frames` of end-systole.
    spacing_mm: float32 [2] mm per pixel (row, column); NaN where unknown.
    fps: frames per second; NaN where unknown.
    quality: 'Good', 'Medium', 'Poor' or ''.
    ef_percent: the provider's ejection fraction in percent; NaN if unknown.
    edv_ml: the provider's end-diastolic volume in ml; NaN if unknown.
    esv_ml: the provider's end-systolic volume in ml; NaN if unknown.
    sex: 'F', 'M' or ''.
    age: years; NaN if unknown.
    reversed_in_time: True when the file held ES before ED and the reader
      flipped images and masks together.
  """

  patient: str
  view: str
  frames: np.ndarray
  masks: np.ndarray
  labeled: np.ndarray
  ed: int
  es: int
  spacing_mm: np.ndarray
  fps: float = float('nan')
  quality: str = ''
  ef_percent: float = float('nan')
  edv_ml: float = float('nan')
  esv_ml: float = float('nan')
  sex: str = ''
  age: float = float('nan')
  reversed_in_time: bool = False


def cut_to_ends(clip: Clip) -> Clip:
  """The frames from ED to ES, ED first.

  Args:
    clip: any clip.

  Returns:
    The part of it, reversed in time where ES came before ED.
  """
  step = 1 if clip.es >= clip.ed else -1
  rows = np.arange(clip.ed, clip.es + step, step)
  return dataclasses.replace(
    clip,
    frames=clip.frames[rows],
    masks=clip.masks[rows],
    labeled=clip.labeled[rows],
    ed=0,
    es=len(rows) - 1,
    reversed_in_time=clip.reversed_in_time or step < 0,
  )
