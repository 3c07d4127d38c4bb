"""Scores masks that another tool made, at the size and spacing of the raw dataset."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import dataclasses
import fnmatch
import pathlib

import numpy as np

from echoforge_jax.clip import IGNORE, LABELS, Clip
from echoforge_jax.data import datasets
from echoforge_jax.data.prepared import SPLITS
from echoforge_jax.data.selection import class_table, protocol_frames
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import foreign_files
from echoforge_jax.evaluation.evaluate import (
  Evaluation,
  PredictedSplit,
  check_writable,
  write_evaluation,
)
from echoforge_jax.evaluation.foreign_files import WHOLE, MaskFiles
from echoforge_jax.evaluation.protocols import Protocol, get_protocol
from echoforge_jax.evaluation.scoring import Case
from echoforge_jax.formats.label_names import Labels
from echoforge_jax.formats.resize import resize_masks
from echoforge_jax.provenance import git_revision, versions

# Where no protocol is asked for.
_PROTOCOLS = {'camus': 'camus_semi', 'echonet': 'echonet'}
# Clips that are looked through for a class before it counts as unknown to the dataset.
_SEARCHED = 25


@dataclasses.dataclass(frozen=True)
class ForeignMasks:
  """Masks of a folder, put into the clips of a raw dataset."""

  reader: datasets.Reader
  files: MaskFiles
  labels: Labels
  classes: tuple[str, ...]  # In the order of the class ids.
  protocol: Protocol
  image_size: int | None = None  # S where masks of S x S are of squeezed clips.

  def read(self, patient: str, view: str) -> tuple[Clip, dict[int, np.ndarray]]:
    """Reads a clip, and the masks there are by frame, uint8 [H, W] of `LABELS`."""
    clip = datasets.read_checked(self.reader, patient, view)
    count, found = len(clip.frames), {}
    for frame, path in self.files.of[patient, view].items():
      masks = foreign_files.read_file(path, self.labels)
      frames = self._frames(clip, frame)
      wanted = count if frame == WHOLE else 1
      if len(masks) != wanted:
        raise InputError(
          f'{path}: found {len(masks)} masks, wanted {wanted} of {patient} {view}, as its raw file '
          'has frames; predict every frame, or name files of single frames _ED, _ES or _frame00'
        )
      if not 0 <= frames[0] < count or found.keys() & set(frames):
        reason = 'is given twice' if found.keys() & set(frames) else f'wanted 0 to {count - 1}'
        raise InputError(f'{path}: found a mask of frame {frame}, {reason}; rename the file')
      found |= zip(frames, self._at_native_size(path, masks, clip.frames.shape[1:]))
    return clip, found

  def _frames(self, clip: Clip, frame: str | int) -> list[int]:
    """Returns the frames of a clip, as it was read, that a file holds."""
    if frame in ('ED', 'ES'):
      return [clip.ed if frame == 'ED' else clip.es]
    frames = list(range(len(clip.frames))) if frame == WHOLE else [frame]
    if clip.reversed_in_time:
      return [len(clip.frames) - 1 - t for t in frames]
    return frames

  def _at_native_size(self, path, masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns masks of a clip's own size; squeezed ones are enlarged."""
    found = masks.shape[1:]
    if found == size:
      return masks
    if found == (self.image_size,) * 2:
      return resize_masks(masks, size)
    square = f' or {self.image_size}x{self.image_size}' if self.image_size else ''
    turned = ' (rows and columns are swapped)' * (found == size[::-1])
    raise InputError(
      f'{path}: found masks of {found[0]}x{found[1]}{turned}, wanted {size[0]}x{size[1]}{square} '
      'as the raw clip; resize them, or give --image_size=S for masks of clips squeezed to S x S'
    )

  def rows(self, clip: Clip) -> list[int]:
    """Returns the frames that the protocol samples, ED first."""
    truncate = self.protocol.sampler == 'truncate'
    return protocol_frames(clip.ed, clip.es, self.protocol.num_frames, truncate=truncate).tolist()

  def usable_rows(self, clip: Clip, given: Collection[int]) -> list[int]:
    """Returns the sampled frames if all have masks, else ED and ES if these suffice, else none."""
    rows = self.rows(clip)
    if set(rows) <= set(given):
      return rows
    ends = list(dict.fromkeys((clip.ed, clip.es)))
    return ends if self.protocol.score == 'ends' and set(ends) <= set(given) else []

  def is_missing(self, patient: str, view: str) -> bool:
    """Returns whether frames that are scored have no mask."""
    files = self.files.of[patient, view]
    if WHOLE in files or (self.protocol.score == 'ends' and {'ED', 'ES'} <= files.keys()):
      return False
    return not files or not self.usable_rows(*self.read(patient, view))

  def case(self, patient: str, view: str, *, whole: bool = False) -> Case:
    """Returns a clip from ED to ES, or as it is, with truth and prediction at native size."""
    clip, found = self.read(patient, view)
    rows = list(range(len(clip.frames))) if whole else self.usable_rows(clip, found)
    table = class_table(self.classes)
    truth = table[clip.masks[rows]]
    truth[~clip.labeled[rows]] = IGNORE
    return Case(
      patient=patient,
      view=view,
      truth=truth,
      prediction=table[np.stack([found[t] for t in rows])],
      spacing_mm=np.asarray(clip.spacing_mm, np.float64),
      frames=clip.frames[rows],
      labeled=clip.labeled[rows],
      native_size=clip.frames.shape[1:],
      quality=clip.quality,
      ef_percent=clip.ef_percent,
      edv_ml=clip.edv_ml,
      esv_ml=clip.esv_ml,
      ef_source=clip.ef_source,
      fps=clip.fps,
      **({'ed': clip.ed, 'es': clip.es} if whole else {}),
    )


class ForeignClips(Sequence):
  """Clips from ED to ES with masks of another tool; read anew at each access."""

  def __init__(self, masks: ForeignMasks, clips: Sequence[tuple[str, str]], *, whole: bool = False):
    """Reads nothing yet; `whole` gives all frames of each clip instead."""
    self._masks, self._clips, self._whole = masks, clips, whole

  def __len__(self) -> int:
    return len(self._clips)

  def __getitem__(self, number: int) -> Case:
    return self._masks.case(*self._clips[number], whole=self._whole)

  def __iter__(self) -> Iterator[Case]:
    return (self[number] for number in range(len(self)))


def evaluate_foreign(
  predictions,
  dataset: str,
  raw_dir,
  out_dir,
  split: str = 'test',
  protocol: str | None = None,
  *,
  seed: int = 0,
  whole_clip: bool = True,
  progress: bool = False,
  **options,
) -> Evaluation:
  """Scores a folder of masks against a raw dataset and writes the report.

  Args:
    predictions, dataset, raw_dir, **options: of `open_foreign`.
    out_dir, split, seed, whole_clip: as of `evaluate`.
    protocol: as of `evaluate`; None takes the dataset's own that scores ED and ES.
  """
  chosen = get_protocol(protocol or _PROTOCOLS.get(dataset, 'own'))
  check_writable(out_dir)
  found = open_foreign(predictions, dataset, raw_dir, split, chosen, **options)
  return write_evaluation(
    found.cases,
    chosen,
    out_dir,
    classes=found.classes,
    seed=seed,
    receipt=found.receipt,
    whole=found.whole if whole_clip else (),
    progress=progress,
  )


def open_foreign(
  predictions,
  dataset: str,
  raw_dir,
  split: str,
  protocol: Protocol,
  *,
  labels: str | None = None,
  classes: str | None = None,
  image_size: int | None = None,
  split_scheme: str | None = None,
  allow_missing: bool = False,
) -> PredictedSplit:
  """Puts the masks of a folder into the clips of a raw dataset; whole clips where all are whole.

  Args:
    predictions: holds the masks, named as `foreign_files` says.
    dataset, raw_dir: as `verify` takes them.
    split: 'train', 'validation' or 'test'.
    protocol: what is scored.
    labels: values of the masks, such as 'lv=1,myo=2'; see `foreign_files.read_labels`.
    classes: names that are scored, joined by commas; None takes all that the masks hold.
    image_size: S, where the masks are of clips squeezed to S x S; they are enlarged.
    split_scheme: whose patient lists; None takes the protocol's, or 'official'.
    allow_missing: leave out clips without masks, which the receipt counts and names.

  Raises:
    InputError: where masks are missing, belong to no clip, or do not fit it.
  """
  if protocol.dataset not in ('', dataset):
    raise InputError(
      f'protocol: {protocol.name!r} is of the dataset {protocol.dataset!r}, found '
      f'--dataset={dataset}; choose own, which fits every dataset'
    )
  if protocol.split_scheme not in ('', split_scheme or protocol.split_scheme):
    raise InputError(
      f'--split_scheme={split_scheme}: the protocol {protocol.name!r} tests on the lists '
      f'{protocol.split_scheme!r}; choose another protocol'
    )
  reader = datasets.reader_of(dataset, '--dataset')(raw_dir)
  scheme = split_scheme or protocol.split_scheme or 'official'
  clips, others = _list_clips(reader, split, scheme)
  folder = pathlib.Path(predictions).expanduser()
  files = foreign_files.find_files(folder, reader, clips, others)
  table, source = foreign_files.read_labels(labels, files, reader)
  digest, values = foreign_files.survey(files, table)
  names = _classes(classes, table, values, explicit=bool(labels))
  masks = ForeignMasks(reader, files, table, names, protocol, image_size)
  missing = [clip for clip in clips if masks.is_missing(*clip)]
  clips = [clip for clip in clips if clip not in set(missing)]
  _check_missing(files, missing, clips, protocol, allow_missing)
  _check_truth(reader, clips, names)
  receipt = {
    'run': folder.resolve().name,
    'model': 'foreign',
    'which': 'foreign',
    'predictions_sha256': digest,
    'labels': source,
    'n_missing': len(missing),
    'missing': [f'{patient} {view}' for patient, view in missing],
    'dataset': dataset,
    'synthetic': bool(reader.synthetic),
    'split': split,
    'split_scheme': scheme,
    'raw_fingerprint': datasets.fingerprint(raw_dir, reader.suffixes, folder, reader.options),
    'image_size': 'native',
    'device': 'cpu: numpy',
    'git_revision': git_revision(),
    'versions': versions(),
  }
  complete = all(WHOLE in files.of[clip] for clip in clips)
  whole = ForeignClips(masks, clips, whole=True) if complete else ()
  return PredictedSplit(ForeignClips(masks, clips), whole, names, receipt)


def _list_clips(reader: datasets.Reader, split: str, scheme: str):
  """Returns the clips of the split, and those of all splits."""
  if split not in SPLITS:
    raise InputError(f'split: found {split!r}, wanted one of {list(SPLITS)}')
  if not any(fnmatch.fnmatchcase(scheme, known) for known in reader.schemes):
    raise InputError(f'split_scheme: found {scheme!r}, wanted one of {list(reader.schemes)}')
  clips = [
    clip for clip in datasets.list_checked(reader, split, scheme) if clip[0] not in reader.excluded
  ]
  if not clips:
    raise InputError(
      f'{reader.raw_dir}: the split {split!r} of {scheme!r} has no clip; choose another --split'
    )
  others = []
  for name in SPLITS:
    with contextlib.suppress(InputError):  # Their lists may be absent.
      others += datasets.list_checked(reader, name, scheme)
  return clips, others


def _classes(text: str | None, labels: Labels, values: set[int], *, explicit: bool):
  """Returns the classes to score: those asked for, or those that occur in any file."""
  known = [name for name in LABELS if name in labels.classes]
  if text:
    names = tuple(text.split(','))
    class_table(names)  # Raises for unknown ones.
    if absent := [name for name in names if name not in known]:
      raise InputError(
        f'--classes={text}: the labels name no {absent[0]}, wanted some of {known}; see --labels'
      )
    return names
  names = tuple(name for name in known if explicit or LABELS[name] in values)
  if not names:
    raise InputError('--predictions: found no labeled pixel in any file, wanted masks')
  return names


def _check_missing(files: MaskFiles, missing, clips, protocol: Protocol, allowed: bool) -> None:
  if not missing or (allowed and clips):
    return
  shown = ', '.join(f'{patient}_{view}' for patient, view in missing[:3])
  more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
  frames = 'ED and ES' if protocol.score == 'ends' else f'all frames of {protocol.name}'
  raise InputError(
    f'{files.folder}: found no masks for {frames} of {len(missing)} of {len(missing) + len(clips)} '
    f'clips ({shown}{more}); wanted every clip of the split: add them, or pass --allow_missing to '
    'leave these clips out'
  )


def _check_truth(reader: datasets.Reader, clips, classes: tuple[str, ...]) -> None:
  """Raises if a class is in no mask of the dataset's first clips."""
  wanted = {LABELS[name]: name for name in classes}
  for patient, view in clips[:_SEARCHED]:
    clip = datasets.read_checked(reader, patient, view)
    for value in np.unique(clip.masks[clip.labeled]).tolist():
      wanted.pop(value, None)
    if not wanted:
      return
  raise InputError(
    f'{reader.raw_dir}: its masks hold no {", ".join(wanted.values())} in the first '
    f'{len(clips[:_SEARCHED])} clips; name those to score with --classes'
  )
