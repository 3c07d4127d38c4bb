"""Plain patients for tests of EchoNet's layout: two beats of an ellipse."""

import dataclasses
import types

import numpy as np

from echoforge_jax.clip import Clip

PERIOD, SYSTOLE = 30, 12


@dataclasses.dataclass(frozen=True)
class Config:
  """What the tests vary; written to phantom.json as a phantom's config."""

  height: int = 200
  width: int = 230
  slope: float = 0.0


def generate(seed, index, config=None):
  """A patient whose tilted 4CH ventricle beats twice from ED on."""
  config = config or Config()
  rng = np.random.default_rng([seed, index])
  edv, ef = float(rng.uniform(80, 160)), float(rng.uniform(35, 65))
  phase = np.arange(2 * PERIOD) % PERIOD
  squeezed = np.where(phase <= SYSTOLE, phase / SYSTOLE, (PERIOD - phase) / (PERIOD - SYSTOLE))
  rows, columns = np.mgrid[: config.height, : config.width].astype(float)
  rows, columns = rows / config.height, columns / config.width - 0.5
  sector = (np.hypot(rows, columns) < 0.97) & (np.abs(columns) <= 0.55 * rows)
  tilt = rng.uniform(-0.15, 0.15)
  frames, masks = [], []
  for share in squeezed:
    scale = 1 - (1 - (1 - ef / 100) ** 0.4) * share
    x, z = columns - tilt * (rows - 0.5), rows - 0.5
    inside = np.hypot(z / (0.3 * scale), x / (0.15 * scale)) < 1
    # A flat base, as the mitral plane cuts it.
    inside &= z < 0.2 + config.slope * x
    mask = (inside & sector).astype(np.uint8)
    gray = np.where(mask, 50, 130) + rng.normal(0, 12, mask.shape)
    frames.append(np.where(sector, gray, 0).clip(0, 255).astype(np.uint8))
    masks.append(mask)
  truth = {'ef_percent': ef, 'edv_ml': edv, 'esv_ml': edv * (1 - ef / 100)}
  clip = Clip(
    patient=f'patient{index:04d}',
    view='4CH',
    frames=np.stack(frames),
    masks=np.stack(masks),
    labeled=np.ones(len(frames), bool),
    ed=0,
    es=SYSTOLE,
    spacing_mm=np.full(2, 0.7, np.float32),
    fps=47.6,
    quality='Good',
    **truth,
  )
  return types.SimpleNamespace(clips={'4CH': clip}, group='normal', sex='F', age=60, **truth)
