"""Findings: what is wrong with a file, with codes, a summary and JSON.

Readers yield findings as they read. A clip is refused with the first error among them; verification
lists them all.
"""

import collections
from collections.abc import Iterable
import dataclasses
import pathlib

from echoforge_jax.errors import InputError

ERROR, WARNING = 'error', 'warning'
_FETCH = 'fetch the file again from the provider'
_CORRECT = 'correct the line, or fetch the file again'
_VIEW = 'fetch all files of this view again'
_EXCLUDE = 'leave the clip out with `prepare --exclude` or `--allow_skips`'
_REPLACE = f'fetch the files again, or {_EXCLUDE}'
_EXPORT = 'export the file again, or move the case elsewhere'
_ADD = 'add the'
# Code -> (what it means, the remedy). Errors make the reader refuse the clip or the results wrong;
# the reader copes with warnings.
_ERRORS = {
  'missing-file': ('a file of the layout is absent', _FETCH),
  'truncated-file': ('the length contradicts the header', _FETCH),
  'damaged-file': ('checksum or header is broken', _FETCH),
  'volume-shape': ('not frames x rows x columns of gray levels', _FETCH),
  'shape-mismatch': ('image, mask, ED, ES and sequence differ in size', _VIEW),
  'frame-order': (
    'the ED or ES file is another frame of the sequence: images, masks or cfg run the other way',
    _VIEW,
  ),
  'voxel-values': ('NaN, fractions or values outside 0..255', 'store uint8 gray levels and labels'),
  'image-blank': ('every pixel of a frame has the same value', _FETCH),
  'image-is-mask': (
    'an image holds nothing but label values',
    'a _gt file was put in its place: fetch the file again from the provider',
  ),
  'label-values': ('a mask holds values other than 0, 1, 2, 3', _FETCH),
  'lv-empty': (
    'no left-ventricle pixel at ED or ES',
    'fetch the _gt file again, or leave the patient out',
  ),
  'ed-es-swapped': (
    'the ventricle at ED is smaller than at ES',
    'swap ED and ES (in the cfg file, if any)',
  ),
  'spacing-missing': ('the header gives no millimetres per pixel', _FETCH),
  'spacing-implausible': (
    'the image would be no 50 to 250 mm deep',
    'check the unit of the spacing',
  ),
  'spacing-mismatch': ('files of one view differ in spacing', _VIEW),
  'cfg-unreadable': ('no "Key: value" text', _FETCH),
  'cfg-frame': ('ED or ES is no frame number of the sequence', _CORRECT),
  'cfg-count': ('NbFrame is not the number of frames', _CORRECT),
  'ed-equals-es': ('ED and ES are the same frame', _CORRECT),
  'ef-range': ('the EF is no number in 0..100', _CORRECT),
  'split-missing': (
    'a patient list is absent',
    "copy database_split out of the download, or prepare with the split scheme 'memsam'",
  ),
  'split-unreadable': ('a line is no patient id', _CORRECT),
  'split-empty': ('a list names nobody', _FETCH),
  'split-duplicate': ('a list names a patient twice', 'delete the second line'),
  'split-leak': ('a patient is in two splits', 'keep it in one of them'),
  'split-absent': (
    'a list names a patient that is not on disk',
    'fetch the patient, or delete the line',
  ),
  'duplicate-images': ('two sequences are identical', 'delete one patient, or fetch both again'),
  'csv-line': ('a line of a table cannot be read', _CORRECT),
  'clip-unreadable': ('the reader refuses a clip', _EXCLUDE),
  'listed-twice': ('a clip is listed twice', 'delete one of the lines'),
  'tracing-frames': ('not two traced frames', _REPLACE),
  'tracing-short': ('too few rows to span an area', _REPLACE),
  'tracing-beyond': ('the traced frame does not exist', _REPLACE),
  'split-unknown': ('the split is none that is known', f'correct the line, or {_EXCLUDE}'),
  'video-undecodable': ('no frame can be decoded', _REPLACE),
  'video-damaged': ('the video breaks off', _REPLACE),
  'video-resized': ('frames have another size than is listed: the tracing may not fit', _REPLACE),
  # Of a folder of images and masks.
  'image-unreadable': ('an image or a clip cannot be read', _EXPORT),
  'mask-unreadable': ('a mask cannot be read', _EXPORT),
  'image-missing': ('a mask or a line of cases.csv has no image', f'{_ADD} image, or delete it'),
  'mask-missing': ('an image has no mask, or none at ED or ES', f'{_ADD} mask, or move the image'),
  'mask-other-view': ('the mask of another view lies beside an image', f'{_ADD} mask of this view'),
  'stem-twice': ('two files stand for one image or mask', 'keep one of them'),
  'still-missing': ('a still of ED without one of ES, or the reverse', f'{_ADD} other still'),
  'mask-size': ('an image and its mask, or the stills of a case, differ in size', _EXPORT),
  'mask-frames': (
    'the frames that masks label are not clear',
    'a mask for every frame, or one file each, named STEM_frameNN from 0 on',
  ),
  'mask-values': (
    'a mask holds values that are no label',
    'name the values in dataset.json ({"labels": {"lv": 1}}) or with --labels',
  ),
  'mask-empty': ('nothing is labeled at ED or ES', 'draw it, or name other frames in cases.csv'),
  'labels-unreadable': (
    'the names of the labels are not clear',
    'write {"labels": {"lv": 1, "myo": 2, "la": 3}} with the values of the masks',
  ),
  'folds-unreadable': (
    "nnU-Net's folds cannot be read, or name cases that are not there",
    'copy splits_final.json out of nnUNet_preprocessed again, or move it elsewhere',
  ),
  'ends-unknown': ('ED and ES are not known', 'give the columns ed and es in cases.csv'),
  'frame-beyond': ('a frame that the clip does not have', 'count frames from 0'),
  'ends-swapped': ('the ventricle at ED is smaller than at ES', 'swap ED and ES'),
  'spacing-unit': (
    'a pixel would be no 0.01 to 5 mm',
    'give spacing_mm in cases.csv in mm, or leave it empty where it is unknown',
  ),
}
_WARNINGS = {
  'column-unknown': ('a column that nothing reads', 'correct its name, or ignore it'),
  'stray-file': ('not part of the layout; nothing reads it', 'move it elsewhere'),
  'frame-mismatch': (
    'the ED or ES file is not that frame of the sequence',
    'check ED and ES in the cfg file',
  ),
  'frame-shared': (
    'an ED or ES frame is also that of another patient',
    'look at both patients; leave one out with `prepare --exclude`',
  ),
  'ed-es-close': (
    'the ventricle at ED is up to 5 % smaller than at ES',
    'look at the masks; such an EF is unreliable',
  ),
  'quality-unknown': ('image quality is none of Good, Medium, Poor', _CORRECT),
  'fps-range': ('FrameRate is no number in 5..500', _CORRECT),
  'views-disagree': (
    'both views belong to one patient, but their cfg files differ',
    'check that the folder holds one patient',
  ),
}
# Warnings that need no remedy; what the reader does instead.
_HARMLESS = {
  'voxel-dtype': ('whole numbers, but not stored as uint8', 'the reader converts without loss'),
  'frame-unlabeled': (
    'masks without a left ventricle between ED and ES',
    'the reader marks them unlabeled',
  ),
  'labels-withheld': ('a test patient without labels', 'it cannot be scored'),
  'no-sequences': (
    'a copy of the frames at ED and ES only',
    'clips of two frames, EF measured on the masks; fetch the whole data set for more',
  ),
  'es-before-ed': ('the sequence is stored from ES to ED', 'the reader puts ED first'),
  'atrium-cut': (
    'the left atrium touches the image border',
    'its area and length are lower bounds',
  ),
  'split-unlisted': ('a patient on disk is in no split', 'nothing will use it'),
  'case-unlisted': ('an image is not in cases.csv', 'nothing will use it'),
  'label-unused': ('a label that is no left ventricle, myocardium or atrium', 'it is background'),
  'channel-unused': ('an image has several channels', 'only channel 0000 is read'),
  'labels-absent': ('test images without labels', 'they are not used'),
  'folds-unused': (
    "nnU-Net's folds do not divide the patients",
    '`prepare --fold` draws folds of patients itself',
  ),
  'spacing-unknown': (
    'a volume gives no millimetres per pixel',
    'distances are in pixels, and no volume is measured; or give spacing_mm in cases.csv',
  ),
  'clip-unlisted': ('a video is not listed', 'nothing will use it'),
  'tracing-unlisted': ('a tracing without a listed clip', 'nothing will use it'),
  'tracing-known-missing': (
    'the release never traced this clip',
    '`prepare` excludes it by default',
  ),
  'tracing-rows': ('a tracing of other than 21 rows', 'its polygon is used as it is'),
  'tracing-outside': (
    'traced points lie outside the frame',
    'the polygon is cut at the border; look at the clip',
  ),
  'split-case': ('a split in lower case', 'the reader ignores case'),
  'ef-volumes': ('EF and the volumes beside it disagree', 'the EF is used as it is'),
  'frame-count': ('more or fewer frames decode than are listed', 'the decoded frames count'),
  'video-size': ('frames are not 112 x 112', 'frames are squeezed to the grid asked for'),
  'interval-short': ('fewer than ten frames from ED to ES', 'sampling repeats frames'),
}
# Code -> (severity, what it means, the remedy).
CODES = {
  **{code: (ERROR, *entry) for code, entry in _ERRORS.items()},
  **{code: (WARNING, *entry) for code, entry in _WARNINGS.items()},
  **{code: (WARNING, what, f'none needed: {does}') for code, (what, does) in _HARMLESS.items()},
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One fault of one file."""

  severity: str  # 'error' or 'warning'.
  code: str  # Key of `CODES`.
  file: str  # Path of the file or folder.
  found: str
  wanted: str
  remedy: str


class FindingError(InputError):
  """A file that cannot be used, with its `finding`."""

  def __init__(self, finding: Finding):
    super().__init__(
      f'{finding.file}: found {finding.found}, wanted {finding.wanted}; remedy: {finding.remedy}'
    )
    self.finding = finding


def make_finding(code: str, file, found, wanted) -> Finding:
  """Returns a finding with the severity and the remedy of its code; its texts are one line each."""
  severity, _, remedy = CODES[code]
  return Finding(severity, code, *map(_one_line, (file, found, wanted)), remedy)


def _one_line(value) -> str:
  """Returns a text with line ends and the like, of a file's name for instance, as escapes."""
  return ''.join(c if c.isprintable() or c == '\xa0' else ascii(c)[1:-1] for c in str(value))


def of_decoder(code: str, path, error: InputError, wanted: str) -> Finding:
  """Returns what a decoder raised, 'PATH: found ...; wanted ...', as a finding.

  Args:
    code: of the finding, unless the error has one.
    wanted: where the error does not say it.
  """
  if isinstance(error, FindingError):
    return error.finding
  reason = str(error).removeprefix(f'{path}: ').removeprefix('found ')
  found, _, said = reason.partition('; wanted ')
  return make_finding(code, path, found.split(';')[0], said or wanted)


def absence(path: pathlib.Path) -> str:
  """Returns what stands where a file should be: 'nothing', or another kind of entry."""
  if path.is_symlink() and not path.exists():
    return 'a link that leads nowhere'
  return 'a folder' if path.is_dir() else 'no regular file' if path.exists() else 'nothing'


def fault(code: str, file, found, wanted) -> FindingError:
  """Returns the exception to raise for a finding."""
  return FindingError(make_finding(code, file, found, wanted))


def raise_first(findings: Iterable[Finding], also: str = '') -> None:
  """Raises `FindingError` at the first error, or warning of the code `also`."""
  for finding in findings:
    if finding.severity == ERROR or finding.code == also:
      raise FindingError(finding)


def summary(findings: list[Finding], num_patients: int, examples: int = 3) -> str:
  """Returns findings by code, errors first, `examples` of each, as lines for a terminal."""
  groups = collections.defaultdict(list)
  for finding in findings:
    groups[finding.severity, finding.code].append(finding)
  lines = []
  for (severity, code), group in sorted(groups.items()):
    lines.append(f'{severity} {code} ({len(group)}): {CODES[code][1]}')
    for finding in group[:examples]:
      lines += [f'  {finding.file}', f'    found {finding.found}; wanted {finding.wanted}']
    if len(group) > examples:
      lines.append(f'  ... and {len(group) - examples} more')
    lines.append(f'  remedy: {CODES[code][2]}')
  errors = sum(finding.severity == ERROR for finding in findings)
  lines.append(
    f'{num_patients} patients verified: {errors} errors, {len(findings) - errors} warnings'
  )
  return '\n'.join(lines)


def as_json(findings: list[Finding], *, dataset: str, raw_dir, num_patients: int) -> dict:
  """Returns the findings of one verification and their counts as plain values."""
  errors = sum(finding.severity == ERROR for finding in findings)
  return {
    'dataset': dataset,
    'raw': str(raw_dir),
    'num_patients': num_patients,
    'errors': errors,
    'warnings': len(findings) - errors,
    'findings': [dataclasses.asdict(finding) for finding in findings],
  }
