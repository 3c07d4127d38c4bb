"""What verification reports: findings, their codes, a summary, JSON."""

import collections
import dataclasses

ERROR, WARNING = 'error', 'warning'
_FETCH = 'fetch the file again from the provider'
_CORRECT = 'correct the line, or fetch the file again'
_EXCLUDE = (
  'fetch the files again, or leave the clip out with '
  '`prepare --exclude` or `--allow_skips`'
)
# Every code: severity, what it means, the remedy.
CODES = {
  'missing-file': (ERROR, 'a file of the layout is absent', _FETCH),
  'truncated-file': (ERROR, 'the length contradicts the header', _FETCH),
  'damaged-file': (ERROR, 'checksum or header is broken', _FETCH),
  'stray-file': (
    WARNING,
    'not part of the layout; nothing reads it',
    'move it elsewhere',
  ),
  'volume-shape': (ERROR, 'not frames x rows x columns of gray levels', _FETCH),
  'shape-mismatch': (
    ERROR,
    'image, mask, ED, ES and sequence differ in size',
    'fetch all files of this view again',
  ),
  'frame-mismatch': (
    WARNING,
    'the ED or ES file is not that frame of the sequence',
    'check ED and ES in the cfg file',
  ),
  'frame-order': (
    ERROR,
    'the ED or ES file is another frame of the '
    'sequence: images, masks or cfg run the other way',
    'fetch all files of this view again',
  ),
  'voxel-dtype': (
    WARNING,
    'whole numbers, but not stored as uint8',
    'none needed: the reader converts without loss',
  ),
  'voxel-values': (
    ERROR,
    'NaN, fractions or values outside 0..255',
    'store uint8 gray levels and labels',
  ),
  'image-blank': (ERROR, 'every pixel of a frame has the same value', _FETCH),
  'image-is-mask': (
    ERROR,
    'an image holds nothing but label values',
    'a _gt file was put in its place: ' + _FETCH,
  ),
  'label-values': (ERROR, 'a mask holds values other than 0, 1, 2, 3', _FETCH),
  'lv-empty': (
    ERROR,
    'no left-ventricle pixel at ED or ES',
    'fetch the _gt file again, or leave the patient out',
  ),
  'frame-unlabeled': (
    WARNING,
    'masks without a left ventricle between ED and ES',
    'none needed: the reader marks them unlabeled',
  ),
  'labels-withheld': (
    WARNING,
    'a test patient without labels',
    'none needed: it cannot be scored',
  ),
  'ed-es-swapped': (
    ERROR,
    'the ventricle at ED is smaller than at ES',
    'swap ED and ES in the cfg file',
  ),
  'ed-es-close': (
    WARNING,
    'the ventricle at ED is up to 5 % smaller than at ES',
    'look at the masks; such an EF is unreliable',
  ),
  'es-before-ed': (
    WARNING,
    'the sequence is stored from ES to ED',
    'none needed: the reader puts ED first',
  ),
  'atrium-cut': (
    WARNING,
    'the left atrium touches the image border',
    'none needed: its area and length are lower bounds',
  ),
  'spacing-missing': (
    ERROR,
    'the header gives no millimetres per pixel',
    _FETCH,
  ),
  'spacing-implausible': (
    ERROR,
    'the image would be no 50 to 250 mm deep',
    'check the unit of the spacing',
  ),
  'spacing-mismatch': (
    ERROR,
    'files of one view differ in spacing',
    'fetch all files of this view again',
  ),
  'cfg-unreadable': (ERROR, 'no "Key: value" text', _FETCH),
  'cfg-frame': (ERROR, 'ED or ES is no frame number of the sequence', _CORRECT),
  'cfg-count': (ERROR, 'NbFrame is not the number of frames', _CORRECT),
  'ed-equals-es': (ERROR, 'ED and ES are the same frame', _CORRECT),
  'ef-range': (ERROR, 'the EF is no number in 0..100', _CORRECT),
  'quality-unknown': (
    WARNING,
    'image quality is none of Good, Medium, Poor',
    _CORRECT,
  ),
  'fps-range': (WARNING, 'FrameRate is no number in 5..500', _CORRECT),
  'views-disagree': (
    WARNING,
    'both views belong to one patient, but their cfg files differ',
    'check that the folder holds one patient',
  ),
  'split-missing': (
    ERROR,
    'a patient list is absent',
    'copy database_split out of the download, or prepare '
    "with the split scheme 'memsam'",
  ),
  'split-unreadable': (ERROR, 'a line is no patient id', _CORRECT),
  'split-empty': (ERROR, 'a list names nobody', _FETCH),
  'split-duplicate': (
    ERROR,
    'a list names a patient twice',
    'delete the second line',
  ),
  'split-leak': (
    ERROR,
    'a patient is in two splits',
    'delete it from one list',
  ),
  'split-absent': (
    ERROR,
    'a list names a patient that is not on disk',
    'fetch the patient, or delete the line',
  ),
  'split-unlisted': (
    WARNING,
    'a patient on disk is in no split',
    'none needed: nothing will use it',
  ),
  'duplicate-images': (
    ERROR,
    'two sequences are identical',
    'delete one patient, or fetch both again',
  ),
  # EchoNet-Dynamic.
  'csv-line': (ERROR, 'a line of a table cannot be read', _CORRECT),
  'listed-twice': (ERROR, 'a clip is listed twice', 'delete one of the lines'),
  'clip-unlisted': (
    WARNING,
    'a video is not listed',
    'none needed: nothing will use it',
  ),
  'tracing-unlisted': (
    WARNING,
    'a tracing without a listed clip',
    'none needed: nothing will use it',
  ),
  'tracing-known-missing': (
    WARNING,
    'the release never traced this clip',
    'none needed: `prepare` excludes it by default',
  ),
  'tracing-frames': (ERROR, 'not two traced frames', _EXCLUDE),
  'tracing-short': (ERROR, 'too few rows to span an area', _EXCLUDE),
  'tracing-rows': (
    WARNING,
    'a tracing of other than 21 rows',
    'none needed: its polygon is used as it is',
  ),
  'tracing-outside': (
    WARNING,
    'traced points lie outside the frame',
    'none needed: the polygon is cut at the border; look at the clip',
  ),
  'tracing-beyond': (ERROR, 'the traced frame does not exist', _EXCLUDE),
  'split-unknown': (
    ERROR,
    'the split is none of TRAIN, VAL, TEST',
    'correct the line, or leave the clip out with '
    '`prepare --exclude` or `--allow_skips`',
  ),
  'split-case': (
    WARNING,
    'a split in lower case',
    'none needed: the reader ignores case',
  ),
  'ef-volumes': (
    WARNING,
    'EF and the volumes beside it disagree',
    'none needed: the EF is used as it is',
  ),
  'frame-count': (
    WARNING,
    'more or fewer frames decode than are listed',
    'none needed: the decoded frames count',
  ),
  'video-undecodable': (ERROR, 'no frame can be decoded', _EXCLUDE),
  'video-damaged': (ERROR, 'the video breaks off', _EXCLUDE),
  'video-resized': (
    ERROR,
    'frames have another size than is listed: the tracing may not fit',
    _EXCLUDE,
  ),
  'video-size': (
    WARNING,
    'frames are not 112 x 112',
    'none needed: frames are squeezed to the grid asked for',
  ),
  'interval-short': (
    WARNING,
    'fewer than ten frames from ED to ES',
    'none needed: sampling repeats frames',
  ),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One fault of one file.

  Attributes:
    severity: 'error' or 'warning'.
    code: key of `CODES`.
    file: path of the file or folder.
    found: what was found.
    wanted: what was wanted.
    remedy: what to do.
  """

  severity: str
  code: str
  file: str
  found: str
  wanted: str
  remedy: str


def make_finding(code: str, file, found, wanted) -> Finding:
  """A finding with the severity and remedy of its code.

  Args:
    code: key of `CODES`.
    file: path of the file or folder.
    found: what was found.
    wanted: what was wanted.

  Returns:
    The finding, all fields text.
  """
  severity, _, remedy = CODES[code]
  return Finding(severity, code, str(file), str(found), str(wanted), remedy)


def summary(
  findings: list[Finding], num_patients: int, examples: int = 3
) -> str:
  """Findings grouped by code, errors first, as text for a terminal.

  Args:
    findings: out of `verify_camus` or `verify_echonet`.
    num_patients: patients verified.
    examples: files named for each code.

  Returns:
    Several lines.
  """
  groups = collections.defaultdict(list)
  for finding in findings:
    groups[finding.severity, finding.code].append(finding)
  lines = []
  for (severity, code), group in sorted(groups.items()):
    lines.append(f'{severity} {code} ({len(group)}): {CODES[code][1]}')
    for finding in group[:examples]:
      lines.append(f'  {finding.file}')
      lines.append(f'    found {finding.found}; wanted {finding.wanted}')
    if len(group) > examples:
      lines.append(f'  ... and {len(group) - examples} more')
    lines.append(f'  remedy: {CODES[code][2]}')
  errors = sum(finding.severity == ERROR for finding in findings)
  lines.append(
    f'{num_patients} patients verified: {errors} errors, '
    f'{len(findings) - errors} warnings'
  )
  return '\n'.join(lines)


def as_json(
  findings: list[Finding], *, dataset: str, raw_dir, num_patients: int
) -> dict:
  """Findings and their counts as plain values for `json.dump`.

  Args:
    findings: out of `verify_camus` or `verify_echonet`.
    dataset: 'camus' or 'echonet'.
    raw_dir: the folder verified.
    num_patients: patients verified.

  Returns:
    Keys dataset, raw, num_patients, errors, warnings, findings.
  """
  errors = sum(finding.severity == ERROR for finding in findings)
  return {
    'dataset': dataset,
    'raw': str(raw_dir),
    'num_patients': num_patients,
    'errors': errors,
    'warnings': len(findings) - errors,
    'findings': [dataclasses.asdict(finding) for finding in findings],
  }
