"""Synthetic patients in EchoNet-Dynamic's raw layout.

Each patient is one apical four-chamber clip of about one to two beats, 112 x 112, MJPG, traced at
one ED and the ES that follows. EF and volumes in the list are those of the three-dimensional
ventricle: as in the real set, one plane alone does not give them. `phantom.json` holds the truth
and the planted traps.
"""

from collections.abc import Callable, Sequence
import csv
import functools
import hashlib
import io
from pathlib import Path

import numpy as np

from echoforge_jax import textio
from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.formats import echonet, resize
from echoforge_jax.formats.video import encode_mjpg
from echoforge_jax.metrics import ejection
from echoforge_jax.phantom import echonet_traps, writing
from echoforge_jax.phantom.config import PhantomConfig

SIZE = 112
CHORDS = 20
BEATS = 2
# Pixels by which chords end inside the outline: rounding and the polygon's own
# border would widen the mask.
_INSET = 0.15
_NOISE = 10  # Gray levels outside the sector, at most.
# The official shares of validation and test; 7465 of 10,030 train.
_SHARES = (1288 / 10030, 1277 / 10030)


def write_echonet(
  out_dir,
  *,
  num_patients: int,
  seed: int,
  config=None,
  num_test: int | None = None,
  traps: Sequence[str] = (),
  num_workers: int = 0,
  progress: bool = True,
  generate: Callable | None = None,
) -> dict:
  """Writes synthetic patients as EchoNet-Dynamic; continues a stopped run.

  A clip appears whole or not at all, and the same arguments give the same tables and pixels. Both
  tables are written last.

  Args (the others, and the result, are those of `camus_writer.write_camus`):
    out_dir: root; gets FileList.csv, VolumeTracings.csv, Videos/ and phantom.json.
    num_test: test clips; None takes the official share.
    traps: names of `echonet_traps.TRAPS` to plant.
    generate: its patients have a whole 4CH clip that begins at ED; None renders two beats.
  """
  writing.check_counts(num_patients, seed)
  echonet_traps.check(traps, num_patients)
  config = PhantomConfig.camus() if config is None else config
  out_dir = Path(out_dir)
  splits = split_clips(num_patients, seed, num_test)
  counts = dict(num_patients=num_patients, num_test=splits.count('TEST'))
  truth = writing.open_truth(
    out_dir, config, **counts, seed=seed, layout='echonet', traps=sorted(traps)
  )
  if truth.pop('planting', False):
    # Stopped while it planted: what may have been changed is made again.
    for name in echonet_traps.choose(truth, traps).values():
      truth['patients'].pop(name)

  def made(index):
    name = clip_id(seed, index)
    whole = truth.get('planted') or echonet.video_path(out_dir, name).exists()
    return name in truth['patients'] and whole

  jobs = [
    (seed, index, config, str(out_dir), split, generate)
    for index, split in enumerate(splits)
    if not made(index)
  ]
  if jobs or 'planted' not in truth:
    writing.make_patients(
      _write_patient, jobs, truth, out_dir, num_workers=num_workers, progress=progress
    )
    _write_tables(out_dir, truth)
    if traps:
      truth['planting'] = True
      writing.write_truth(out_dir, truth)
    truth.pop('planting', None)
    truth['planted'] = echonet_traps.plant(out_dir, truth, traps)
    writing.write_truth(out_dir, truth)
  return truth


def clip_id(seed: int, index: int) -> str:
  """Names a clip: '0X' and sixteen hexadecimal digits, as the provider does."""
  digest = hashlib.sha256(f'echonet phantom {seed} {index}'.encode())
  return '0X' + digest.hexdigest()[:16].upper()


def split_clips(num_patients: int, seed: int, num_test: int | None = None) -> list[str]:
  """Draws 'TRAIN', 'VAL' or 'TEST' for each clip, see `writing.split_sizes`."""
  val, test = writing.split_sizes(num_patients, num_test, _SHARES)
  order = np.random.default_rng([seed, 1]).permutation(num_patients)
  splits = np.full(num_patients, 'TRAIN', object)
  splits[order[:test]], splits[order[test : test + val]] = 'TEST', 'VAL'
  return splits.tolist()


def trace(mask: np.ndarray) -> np.ndarray:
  """Traces bool [H, W]: the long axis, then chords across it from the apex to the base.

  Returns float64 [21, 4] rows (x1, y1, x2, y2); the provider's polygon rule gives the mask back,
  but for rounding. Raises ValueError when there is no cavity to trace.
  """
  cavity = ejection.measure_cavity(mask)
  if cavity is None:
    raise ValueError(
      f'found no cavity to trace, wanted one of {ejection.MIN_PIXELS} pixels or more'
    )
  along = (cavity.base - cavity.apex) / cavity.length
  across = np.array([-along[1], along[0]])  # (row, column)
  if across[1] < 0:
    across = -across  # First ends on the left.
  start = cavity.contour - cavity.apex
  s, w = start @ along, start @ across
  s2, w2 = np.roll(s, -1), np.roll(w, -1)
  # The base may slope: chords run as far down as the outline does.
  places = np.linspace(s.min() + 0.4, s.max() - 0.4, CHORDS)
  ends = []
  for place in places:
    hit = (s <= place) != (s2 <= place)
    cross = w[hit] + (place - s[hit]) / (s2 - s)[hit] * (w2 - w)[hit]
    ends.append((cross.min() + _INSET, cross.max() - _INSET))
  middles = cavity.apex + places[:, None] * along
  chords = middles[:, None] + np.array(ends)[..., None] * across
  rows = np.concatenate([[[cavity.apex, cavity.base]], chords])  # [21, 2, (row, column)]
  return np.round(rows[:, :, ::-1].reshape(-1, 4), 4)


def _write_patient(job: tuple) -> tuple[str, dict]:
  """Makes one patient, writes the clip, returns what the tables need."""
  seed, index, config, out_dir, split, generate = job
  if generate is None:
    from echoforge_jax.phantom.patient import generate_patient

    generate = functools.partial(generate_patient, beats=BEATS, views=('4CH',))
  patient = generate(seed, index + 1, config)
  clip = patient.clips['4CH']
  rng = np.random.default_rng([seed, 3, index])
  first, ed, es = _window(clip, rng)
  frames = resize.squeeze_frames(clip.frames[first:], SIZE)
  masks = resize.squeeze_masks(clip.masks[first:], SIZE) == LABELS['lv']
  outside = resize.squeeze_frames(clip.frames, SIZE).max(axis=0) == 0
  noise = rng.integers(0, _NOISE + 1, frames.shape, np.uint8)
  frames = np.where(outside, noise, frames)
  name = clip_id(seed, index)
  path = echonet.video_path(out_dir, name)
  path.parent.mkdir(parents=True, exist_ok=True)
  with textio.replacing(path) as temporary:
    temporary.write_bytes(encode_mjpg(frames, clip.fps))
  facts = {'split': split, 'fps': round(float(clip.fps)), 'num_frames': len(frames)}
  facts |= {'ed': ed, 'es': es, 'tracings': {str(t): trace(masks[t]).tolist() for t in (ed, es)}}
  return name, writing.facts_of(patient) | facts


def _window(clip: Clip, rng) -> tuple[int, int, int]:
  """Returns (first frame kept, ED, ES counted from there): recordings start anywhere.

  Of two beats the first loses a part, and the ED that begins the second is traced; of a single one,
  its own.
  """
  areas = (clip.masks == LABELS['lv']).sum(axis=(1, 2))
  period = len(areas) // BEATS
  second = areas[period - 2 : period + 3]
  ed = period - 2 + int(second.argmax())
  es = ed + clip.es - clip.ed
  if es >= len(areas) or areas[ed] < 0.97 * areas[clip.ed]:
    return 0, clip.ed, clip.es
  first = int(rng.integers(0, ed - 1))
  return first, ed - first, es - first


def _write_tables(out_dir: Path, truth: dict) -> None:
  """Writes FileList.csv and VolumeTracings.csv as the provider does."""
  files, lines = io.StringIO(), io.StringIO()
  table = csv.writer(files, lineterminator='\n')
  table.writerow(echonet.LIST_COLUMNS)
  traced = csv.writer(lines, lineterminator='\n')
  traced.writerow(echonet.TRACING_COLUMNS)
  for name, facts in truth['patients'].items():
    exact = [f'{facts[key]:.12f}' for key in ('ef_percent', 'esv_ml', 'edv_ml')]
    others = [facts[key] for key in ('fps', 'num_frames', 'split')]
    table.writerow([name, *exact, SIZE, SIZE, *others])
    for frame, rows in facts['tracings'].items():
      traced.writerows([f'{name}.avi', *row, frame] for row in rows)
  textio.write_text(out_dir / echonet.TRACINGS, lines.getvalue())
  textio.write_text(out_dir / echonet.FILE_LIST, files.getvalue())
