"""Plain patients for tests of the raw formats: ellipses on a gray sector."""

import dataclasses

import numpy as np

from echoforge_jax.clip import Clip


@dataclasses.dataclass(frozen=True)
class Config:
  """What the tests vary; written to phantom.json as a phantom's config."""

  height: int = 40
  width: int = 48
  spacing_mm: float = 3.08


@dataclasses.dataclass(frozen=True)
class Patient:
  """The fields of `phantom.patient.Patient` that the writers use."""

  clips: dict
  edv_ml: float
  esv_ml: float
  ef_percent: float
  group: str
  sex: str
  age: float


def generate(seed, index, config=None):
  """A patient whose ventricle shrinks from ED to ES."""
  config = config or Config()
  rng = np.random.default_rng([seed, index])
  edv = float(rng.uniform(80, 160))
  ef = float(rng.uniform(30, 65))
  sex, age = str(rng.choice(['F', 'M'])), int(rng.integers(30, 90))
  clips = {view: _clip(rng, index, view, config, ef, edv, sex, age) for view in ('2CH', '4CH')}
  return Patient(clips, edv, edv * (1 - ef / 100), ef, 'normal', sex, age)


def _clip(rng, index, view, config, ef, edv, sex, age):
  num_frames = int(rng.integers(5, 8))
  rows, columns = np.mgrid[: config.height, : config.width].astype(float)
  rows /= config.height
  columns = (columns - config.width / 2) / config.height
  sector = (np.hypot(rows, columns) < 1) & (np.abs(columns) <= np.tan(np.radians(38)) * rows)
  frames, masks = [], []
  for t in range(num_frames):
    scale = 1 - (1 - (1 - ef / 100) ** 0.4) * t / (num_frames - 1)
    lv = np.hypot((rows - 0.45) / 0.22, columns / (0.14 * scale))
    la = np.hypot((rows - 0.8) / 0.12, columns / 0.14)
    mask = np.zeros(rows.shape, np.uint8)
    mask[la < 1] = 3
    mask[lv < 1.5] = 2
    mask[lv < 1] = 1
    gray = rng.normal(np.array([90, 60, 130, 70])[mask], 15)
    frames.append(np.where(sector, gray, 0).clip(0, 255).astype(np.uint8))
    masks.append(mask)
  return Clip(
    patient=f'patient{index + 1:04d}',
    view=view,
    frames=np.stack(frames),
    masks=np.stack(masks),
    labeled=np.ones(num_frames, bool),
    ed=0,
    es=num_frames - 1,
    spacing_mm=np.full(2, config.spacing_mm, np.float32),
    fps=50.0,
    quality=str(rng.choice(['Good', 'Medium', 'Poor'])),
    ef_percent=ef,
    edv_ml=edv,
    esv_ml=edv * (1 - ef / 100),
    sex=sex,
    age=age,
  )
