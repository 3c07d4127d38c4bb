"""The clip: one apical view of one patient, as every room passes it on."""

import dataclasses

import numpy as np

# Label values of every mask in this project (CAMUS order).
LABELS = {'lv': 1, 'myo': 2, 'la': 3}
# Marks frames without a label in training batches; never a class.
IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Clip:
  """One view of one patient, frames in the order ED -> ES or a whole cycle."""

  patient: str  # Unique within a dataset, such as 'patient0001'.
  view: str  # '2CH' or '4CH'; the A4C clips of EchoNet are '4CH'.
  frames: np.ndarray  # uint8 [T, H, W] gray levels.
  masks: np.ndarray  # uint8 [T, H, W] values of `LABELS`; zero where unlabeled.
  labeled: np.ndarray  # bool [T], True where `masks` holds the provider's label.
  # Indices into `frames` of end-diastole and end-systole. After reading CAMUS, ed < es; whole clips
  # of EchoNet keep their order, and ES may come first.
  ed: int
  es: int
  spacing_mm: np.ndarray  # float32 [2] mm per pixel (row, column); NaN where unknown.
  fps: float = float('nan')  # NaN where unknown, as all numbers below.
  quality: str = ''  # 'Good', 'Medium', 'Poor' or ''.
  ef_percent: float = float('nan')  # As the provider states it, like the volumes.
  edv_ml: float = float('nan')
  esv_ml: float = float('nan')
  sex: str = ''  # 'F', 'M' or ''.
  age: float = float('nan')  # Years.
  ef_source: str = ''  # What EF and volumes are measured on, such as 'masks, biplane'; '': stated.
  reversed_in_time: bool = False  # The reader flipped images and masks: the file held ES first.


def cut_to_ends(clip: Clip) -> Clip:
  """Returns the frames from ED to ES, reversed in time where ES came before ED."""
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
