"""What of the prepared data is used: frames, classes, labeled patients."""

from collections.abc import Sequence
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
  """Frames at equal distances from ED to ES (paper section 4).

  A clip with fewer frames between ED and ES than asked for repeats frames.
  Where ES was recorded before ED (some whole clips of EchoNet), time runs
  backwards, so that ED still comes first.

  Args:
    ed: index of end-diastole.
    es: index of end-systole, before or after it.
    num_frames: T, at least 2.
    truncate: cut to whole numbers instead of rounding.
    jitter: how far frames between ED and ES move at random, as a share of the
      distance between two sampled frames, 0 to 0.5.
    rng: needed with `jitter` only.

  Returns:
    int64 [T], in one direction; the first is `ed`, the last is `es`.
  """
  places = np.linspace(ed, es, num_frames)
  if jitter:
    step = (es - ed) / (num_frames - 1)
    places[1:-1] += step * jitter * rng.uniform(-1, 1, num_frames - 2)
  return (places if truncate else np.rint(places)).astype(np.int64)


def class_table(classes: Sequence[str]) -> np.ndarray:
  """Table from prepared label values to class ids.

  Args:
    classes: names from `clip.LABELS`; the first becomes 1, the second 2, ...

  Returns:
    uint8 [256]; every other label becomes 0.

  Raises:
    InputError: on an unknown, repeated or missing name.
  """
  unknown = [name for name in classes if name not in LABELS]
  if isinstance(classes, str) or unknown or not classes or (len(set(classes)) < len(classes)):
    raise InputError(f'classes: found {classes!r}, wanted some of {list(LABELS)}, each once')
  table = np.zeros(256, np.uint8)
  for number, name in enumerate(classes, start=1):
    table[LABELS[name]] = number
  return table


def labeled_patients(
  patients: Sequence[str], label_fraction: float, label_seed: int = 0
) -> set[str]:
  """Chooses the patients whose labels training may see.

  Patients are ranked by a hash of their id: the choice does not depend on the
  order or the training seed, and a smaller share is a subset of a larger one.

  Args:
    patients: ids.
    label_fraction: share in (0, 1].
    label_seed: another number gives another ranking.

  Returns:
    round(label_fraction * number) patients, at least one.
  """

  def rank(patient):
    return hashlib.sha256(f'{label_seed}:{patient}'.encode()).digest()

  ranked = sorted(set(patients), key=rank)
  return set(ranked[: max(1, round(label_fraction * len(ranked)))])


def divide_clips(
  source: ClipSource, label_fraction: float = 1.0, label_seed: int = 0
) -> tuple[list[int], list[int]]:
  """Divides a split's clips into those with and those without usable labels.

  Both views of a patient go together. Clips whose ED or ES has no label are
  unlabeled in any case.

  Returns:
    Numbers of the labeled clips, numbers of the unlabeled clips.

  Raises:
    InputError: when no clip is labeled.
  """
  usable = [clip['patient'] for clip in source.clips if clip['labeled']]
  if not usable:
    raise InputError(
      f'{source.path}: none of the {len(source)} clips of {source.split!r} has a label at ED and ES'
    )
  chosen = labeled_patients(usable, label_fraction, label_seed)
  labeled, unlabeled = [], []
  for number, clip in enumerate(source.clips):
    keep = clip['labeled'] and clip['patient'] in chosen
    (labeled if keep else unlabeled).append(number)
  return labeled, unlabeled
