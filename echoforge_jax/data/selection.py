"""What of the prepared data is used: frames, classes, labeled patients."""

from collections.abc import Iterable, Sequence
import hashlib

import numpy as np

from echoforge_jax.clip import LABELS
from echoforge_jax.data.prepared import ClipSource
from echoforge_jax.errors import InputError


def frame_indices(
  ed: int,
  es: int,
  num_frames: int,
  *,
  truncate: bool = False,
  jitter: float = 0.0,
  rng: np.random.Generator | None = None,
) -> np.ndarray:
  """Returns num_frames frames at equal distances from ED to ES (paper section 4), int64 [T].

  A clip with fewer frames between ED and ES than asked for repeats frames. Where ES was recorded
  before ED (some whole clips of EchoNet), time runs backwards, so that ED still comes first.

  Args:
    ed: index of end-diastole, the first of the result.
    es: index of end-systole, the last of the result, before or after `ed`.
    num_frames: T, at least 2.
    truncate: cut to whole numbers instead of rounding.
    jitter: how far frames between ED and ES move at random, as a share of the distance between two
      sampled frames, 0 to 0.5.
    rng: needed with `jitter` only.
  """
  places = np.linspace(ed, es, num_frames)
  if jitter:
    step = (es - ed) / (num_frames - 1)
    places[1:-1] += step * jitter * rng.uniform(-1, 1, num_frames - 2)
  return (places if truncate else np.rint(places)).astype(np.int64)


def random_window(count: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
  """Returns num_frames of `count` frames without knowledge of ED and ES, int64 [T].

  Phase, length and the direction of time are random; the frames lie at equal distances. A clip with
  fewer frames than asked for is taken whole, and repeats frames.
  """
  length = rng.integers(min(num_frames, count), count + 1)
  first = rng.integers(count - length + 1)
  rows = frame_indices(first, first + length - 1, num_frames)
  return rows[::-1] if rng.random() < 0.5 else rows


def protocol_frames(ed: int, es: int, num_frames: int, *, truncate: bool = False) -> np.ndarray:
  """Returns the frames that a protocol samples, as `frame_indices` does, int64 [T].

  A still, or ED and ES without frames between them, has no others to sample: none counts twice.
  """
  count = num_frames if abs(es - ed) > 1 else abs(es - ed) + 1
  return frame_indices(ed, es, count, truncate=truncate)


def class_table(classes: Sequence[str]) -> np.ndarray:
  """Returns the table, uint8 [256], from prepared label values to class ids.

  Of the names in `classes`, from `clip.LABELS`, the first becomes 1, the second 2, ...; every other
  label becomes 0.
  """
  unknown = [name for name in classes if name not in LABELS]
  if isinstance(classes, str) or unknown or not classes or (len(set(classes)) < len(classes)):
    raise InputError(f'classes: found {classes!r}, wanted some of {list(LABELS)}, each once')
  table = np.zeros(256, np.uint8)
  for number, name in enumerate(classes, start=1):
    table[LABELS[name]] = number
  return table


def rank_patients(patients: Iterable[str], label_seed: int = 0) -> list[str]:
  """Ranks patients by a hash of `label_seed` and their id.

  Those whose labels training may see come first: the choice does not depend on the order or the
  training seed, and a smaller one is a subset of a larger one.
  """
  return sorted(set(patients), key=lambda p: hashlib.sha256(f'{label_seed}:{p}'.encode()).digest())


def divide_clips(
  source: ClipSource, label_fraction: float = 1.0, label_seed: int = 0, labeled_patients: int = 0
) -> tuple[list[int], list[int]]:
  """Returns the numbers of a split's clips with and of those without usable labels.

  The labels are those of a share of the patients who have any, at least one, or of a number of
  them, `labeled_patients`, where that is not 0. All views of a patient go together. Clips whose ED
  or ES has no label are unlabeled in any case.
  """
  usable = [clip['patient'] for clip in source.clips if clip['labeled']]
  if not usable:
    raise InputError(
      f'{source.path}: none of the {len(source)} clips of {source.split!r} has a label at ED and ES'
    )
  ranked = rank_patients(usable, label_seed)
  if labeled_patients > len(ranked):
    raise InputError(
      f'{source.path}: the split {source.split!r} holds labels of {len(ranked)} patients, '
      f'labeled_patients is {labeled_patients}; lower it, or set it to 0 for all'
    )
  chosen = set(ranked[: labeled_patients or max(1, round(label_fraction * len(ranked)))])
  kept = [clip['labeled'] and clip['patient'] in chosen for clip in source.clips]
  return [n for n, keep in enumerate(kept) if keep], [n for n, keep in enumerate(kept) if not keep]
