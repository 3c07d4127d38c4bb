"""EchoNet verification: clean phantoms pass, every broken fixture is named."""

import json
from pathlib import Path
import shutil

import numpy as np
import pytest

from echoforge_jax.data.verify_echonet import verify_echonet
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet
from echoforge_jax.formats.findings import CODES, FindingError
from echoforge_jax.formats.video import encode_mjpg, read_video
from echoforge_jax.phantom import echonet_traps
from echoforge_jax.phantom.echonet_writer import write_echonet
from tests.phantom import beating

# What each trap must be reported as, and in which file: of the clip, of the
# list or of the tracings. Nothing else may be found.
_VIDEO, _LIST, _TRACINGS = 'Videos', echonet.FILE_LIST, echonet.TRACINGS
EXPECTED = {
  'no_tracing': {('error', 'tracing-frames', _TRACINGS)},
  'orphan_tracing': {('warning', 'tracing-unlisted', _TRACINGS)},
  'known_no_tracing': {('warning', 'tracing-known-missing', _TRACINGS)},
  'known_orphan': {('warning', 'tracing-unlisted', _TRACINGS)},
  'missing_video': {('error', 'missing-file', _VIDEO)},
  'row_count': {('warning', 'tracing-rows', _TRACINGS)},
  'frame_count': {('warning', 'frame-count', _VIDEO)},
  'ed_after_es': {('warning', 'es-before-ed', _VIDEO)},
  'short_interval': {('warning', 'interval-short', _VIDEO)},
  'undecodable': {('error', 'video-undecodable', _VIDEO)},
  'cut_short': {('error', 'tracing-beyond', _TRACINGS), ('warning', 'frame-count', _VIDEO)},
  'other_size': {('error', 'video-resized', _VIDEO)},
  'unknown_split': {('error', 'split-unknown', _LIST)},
  'lower_split': {('warning', 'split-case', _LIST)},
  'listed_twice': {('error', 'listed-twice', _LIST)},
  'ef_range': {('error', 'ef-range', _LIST)},
  'ef_volumes': {('warning', 'ef-volumes', _LIST)},
  'blank': {('error', 'image-blank', _VIDEO)},
  'same_video': {('error', 'duplicate-images', _VIDEO)},
  'one_frame': {('error', 'tracing-frames', _TRACINGS)},
  'bad_number': {('error', 'csv-line', _TRACINGS), ('warning', 'tracing-rows', _TRACINGS)},
}

PLANTED = {code for wanted in EXPECTED.values() for _, code, _ in wanted} | {
  'clip-unlisted',
  'fps-range',
  'split-empty',
  'split-leak',
  'tracing-outside',
  'tracing-short',
  'video-damaged',
  'video-size',
}


def _write(root, num_patients, **kwargs):
  return write_echonet(
    root,
    num_patients=num_patients,
    seed=3,
    generate=beating.generate,
    config=beating.Config(height=100, width=112),
    progress=False,
    **kwargs,
  )


def _codes(findings):
  return sorted((finding.severity, finding.code) for finding in findings)


def _place(finding):
  path = Path(finding.file)
  return _VIDEO if path.parent.name == _VIDEO else path.name


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  root = tmp_path_factory.mktemp('verify') / 'raw'
  _write(root, 4)
  return root


@pytest.fixture
def raw(clean, tmp_path):
  """A copy to break, and its first training clip."""
  root = tmp_path / 'raw'
  shutil.copytree(clean, root)
  name = next(name for name, row in echonet.Dataset(root).files.items() if row.split == 'TRAIN')
  return root, name


def _edit(path, name, change):
  """Replaces the lines of a clip in a table by change(lines)."""
  head, *lines = path.read_text().splitlines()
  mine = [line for line in lines if line.startswith(name)]
  others = [line for line in lines if not line.startswith(name)]
  path.write_text('\n'.join([head, *others, *change(mine)]) + '\n')


def _set(root, name, column, value):
  """Sets one cell of FileList.csv."""

  def change(lines):
    cells = lines[0].split(',')
    cells[column] = value
    return [','.join(cells)]

  _edit(root / _LIST, name, change)


def _rename(root, old, new):
  for table in (_LIST, _TRACINGS):
    path = root / table
    path.write_text(path.read_text().replace(old, new))
  echonet.video_path(root, old).rename(echonet.video_path(root, new))


def test_clean_phantom_has_nothing(clean):
  assert verify_echonet(clean) == []


def test_every_trap_has_an_expectation():
  assert set(EXPECTED) == set(echonet_traps.TRAPS)


@pytest.mark.slow
@pytest.mark.parametrize('trap', EXPECTED)
def test_a_trap_is_found_and_nothing_else(tmp_path, trap):
  # Two training clips: one stays whole. Losing the other empties no split.
  truth = _write(tmp_path / 'raw', 4, traps=[trap])
  name = truth['planted'][trap]
  findings = verify_echonet(tmp_path / 'raw')
  assert {(f.severity, f.code, _place(f)) for f in findings} == EXPECTED[trap]
  assert len(findings) == len(EXPECTED[trap])
  for finding in findings:
    assert name in finding.file + finding.found
    assert Path(finding.file).parent.is_dir()
    assert finding.wanted and finding.remedy == CODES[finding.code][2]


@pytest.mark.slow
def test_all_traps_are_told_apart(tmp_path):
  truth = _write(tmp_path / 'raw', 30, traps=list(EXPECTED))
  findings = verify_echonet(tmp_path / 'raw')
  named = {}
  for finding in findings:
    (owner,) = (name for name in truth['planted'].values() if name in finding.file + finding.found)
    named.setdefault(owner, set()).add((finding.severity, finding.code, _place(finding)))
  assert named == {name: EXPECTED[trap] for trap, name in truth['planted'].items()}


@pytest.mark.parametrize('trap', EXPECTED)
def test_errors_are_what_the_reader_refuses_or_misreads(tmp_path, trap):
  """A clip without a finding of the severity error can be read."""
  name = _write(tmp_path, 4, traps=[trap])['planted'][trap]
  dataset = echonet.Dataset(tmp_path)
  errors = {wanted[1] for wanted in EXPECTED[trap] if wanted[0] == 'error'}
  misread = {'ef-range', 'duplicate-images'}
  if trap in ('orphan_tracing', 'known_orphan'):
    assert name not in dataset.files
  elif trap == 'known_no_tracing':  # Left out by default, so only a warning.
    assert name in echonet.DEFAULT_EXCLUDED and not dataset.tracings.get(name)
  elif errors - misread:
    with pytest.raises(FindingError, match=f'{name}|line') as caught:
      dataset.read_clip(name)
    assert caught.value.finding in verify_echonet(tmp_path)
  else:
    assert dataset.read_clip(name).labeled.sum() == 2


# -- what the traps do not plant ---------------------------------------------


@pytest.mark.parametrize('name', echonet.DEFAULT_EXCLUDED)
def test_the_six_known_clips_are_warnings(raw, name):
  root, old = raw
  _rename(root, old, name)
  _edit(root / _TRACINGS, name, lambda lines: [])
  (finding,) = verify_echonet(root)
  assert (finding.severity, finding.code) == ('warning', 'tracing-known-missing')
  assert name in finding.found


def test_the_known_orphan_is_called_known(raw):
  root, name = raw
  _edit(
    root / _TRACINGS,
    name,
    lambda lines: lines + [line.replace(name, echonet.KNOWN_ORPHAN) for line in lines],
  )
  (finding,) = verify_echonet(root)
  assert (finding.severity, finding.code) == ('warning', 'tracing-unlisted')
  assert echonet.KNOWN_ORPHAN in finding.found and 'known' in finding.found


def test_identical_videos_across_splits_are_a_leak(raw):
  root, name = raw
  rows = echonet.Dataset(root).files
  test = next(n for n, row in rows.items() if row.split == 'TEST')
  shutil.copy(echonet.video_path(root, test), echonet.video_path(root, name))
  findings = [finding for finding in verify_echonet(root) if finding.code == 'split-leak']
  assert [finding.severity for finding in findings] == ['error']
  text = findings[0].file + findings[0].found
  assert name in text and test in text


def test_a_repacked_copy_is_still_a_copy(raw):
  """Pixels count, not the bytes of the container."""
  root, name = raw
  other = next(n for n in echonet.Dataset(root).files if n != name)
  source = echonet.video_path(root, other)
  data = source.read_bytes()
  echonet.video_path(root, name).write_bytes(data + b'JUNK\4\0\0\0abcd')
  codes = {finding.code for finding in verify_echonet(root)}
  assert codes & {'split-leak', 'duplicate-images'}


@pytest.mark.parametrize('share', [0.02, 0.3, 0.6, 0.8, 0.9, 0.95])
def test_a_truncated_video_is_never_silent(raw, share):
  root, name = raw
  path = echonet.video_path(root, name)
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  findings = verify_echonet(root)
  assert findings
  assert all(name in f.file + f.found for f in findings)


def test_a_truncated_video_is_an_error_wherever_it_is_cut(raw):
  root, name = raw
  path = echonet.video_path(root, name)
  data = path.read_bytes()
  for share in (0.7, 0.8, 0.9, 0.95):
    path.write_bytes(data[: int(share * len(data))])
    assert 'error' in {finding.severity for finding in verify_echonet(root)}


def test_one_blank_frame(raw):
  root, name = raw
  path = echonet.video_path(root, name)
  frames = read_video(path).frames.copy()
  frames[-1] = 40
  path.write_bytes(encode_mjpg(frames, 48))
  assert _codes(verify_echonet(root)) == [('error', 'image-blank')]


@pytest.mark.parametrize(
  'column, value, expected',
  [
    (1, '-3', ('error', 'ef-range')),
    (6, '0', ('warning', 'fps-range')),
    (6, '900', ('warning', 'fps-range')),
    (7, 'many', ('error', 'csv-line')),
    (8, '', ('error', 'split-unknown')),
  ],
)
def test_cells_of_the_list(raw, column, value, expected):
  root, name = raw
  _set(root, name, column, value)
  found = [
    finding for finding in verify_echonet(root) if (finding.severity, finding.code) == expected
  ]
  assert len(found) == 1 and Path(found[0].file).name == _LIST


def test_empty_ef_is_named(raw):
  root, name = raw
  _set(root, name, 1, '')
  assert 'ef-range' in {finding.code for finding in verify_echonet(root)}


def test_tracings_off_the_image_or_of_two_rows(raw):
  root, name = raw
  path = root / _TRACINGS

  def move(lines):
    cells = [line.split(',') for line in lines]
    return [','.join([c[0], *(str(float(v) + 300) for v in c[1:5]), c[5]]) for c in cells]

  text = path.read_text()
  _edit(path, name, move)
  assert _codes(verify_echonet(root)) == [('error', 'lv-empty')] * 2
  path.write_text(text)
  _edit(path, name, lambda lines: lines[:2] + lines[21:])
  assert _codes(verify_echonet(root)) == [('error', 'tracing-short')]


@pytest.mark.parametrize('far', ['130', '1e300'])
def test_a_tracing_partly_off_the_image(raw, far, recwarn):
  root, name = raw

  def move(lines):
    cells = lines[5].split(',')
    return [*lines[:5], ','.join([*cells[:3], far, *cells[4:]]), *lines[6:]]

  _edit(root / _TRACINGS, name, move)
  (finding,) = verify_echonet(root)
  assert (finding.severity, finding.code) == ('warning', 'tracing-outside')
  assert finding.found.startswith('1 points') and name in finding.found
  assert echonet.read_clip(root, name).labeled.sum() == 2
  assert not recwarn.list


@pytest.mark.parametrize(
  'change, found',
  [
    (lambda line: line.replace(line.split(',')[0], ''), "FileName is ''"),
    (lambda line: '../' + line, 'FileName is'),
    (lambda line: line.replace('.', ',', 1), 'fields more'),
  ],
)
def test_broken_lines_of_the_list_are_named(raw, change, found):
  root, name = raw
  _edit(root / _LIST, name, lambda lines: [change(lines[0])])
  (finding,) = (f for f in verify_echonet(root) if f.code == 'csv-line')
  line = len((root / _LIST).read_text().splitlines())
  assert f'line {line}' in finding.found and found in finding.found
  assert finding.wanted not in finding.found and ';' not in finding.found
  clip = change(f'{name},1.5').split(',')[0]
  with pytest.raises(InputError, match=f'line {line}.*correct the line'):
    echonet.Dataset(root).read_clip(clip)


def test_three_traced_frames(raw):
  root, name = raw
  _edit(
    root / _TRACINGS,
    name,
    lambda lines: lines + [line.rsplit(',', 1)[0] + ',0' for line in lines[:21]],
  )
  (finding,) = verify_echonet(root)
  assert finding.code == 'tracing-frames' and '3 traced' in finding.found


def test_unlisted_video_and_empty_split(raw):
  root, name = raw
  frames = np.random.default_rng(0).integers(0, 255, (12, 112, 112), np.uint8)
  path = root / 'Videos' / 'holiday.avi'
  path.write_bytes(encode_mjpg(frames, 30))
  (finding,) = verify_echonet(root)
  assert (finding.code, finding.file) == ('clip-unlisted', str(path))
  path.unlink()
  test = next(n for n, row in echonet.Dataset(root).files.items() if row.split == 'TEST')
  _set(root, test, 8, 'TRAIN')
  (finding,) = verify_echonet(root)
  assert finding.code == 'split-empty' and 'TEST' in finding.found


@pytest.mark.slow
def test_threads_do_not_change_what_is_found(tmp_path):
  _write(tmp_path, 30, traps=list(EXPECTED))
  one, four = (verify_echonet(tmp_path, num_threads=n) for n in (1, 4))
  assert one == four and len(one) >= len(EXPECTED)


@pytest.mark.parametrize('table', [_LIST, _TRACINGS])
def test_absent_or_foreign_tables_are_refused(raw, table):
  root, _ = raw
  (root / table).write_text('Name,Size\n')
  with pytest.raises(InputError, match=f'{table}.*Name.*FileName'):
    verify_echonet(root)
  (root / table).unlink()
  with pytest.raises(InputError, match=table):
    verify_echonet(root)
  with pytest.raises(InputError, match='no such folder'):
    verify_echonet(root / 'nowhere')


def test_command_reports_as_for_camus(tmp_path, capsys):
  from echoforge_jax.__main__ import main

  truth = _write(tmp_path / 'raw', 4, traps=['undecodable'])
  report = tmp_path / 'report.json'
  flags = ['verify', '--dataset=echonet', f'--raw={tmp_path}/raw', f'--json={report}']
  assert main(flags) == 1
  out = capsys.readouterr().out
  assert 'error video-undecodable (1)' in out and 'remedy:' in out
  assert f'{truth["planted"]["undecodable"]}.avi' in out
  assert out.strip().endswith('4 patients verified: 1 errors, 0 warnings')
  content = json.loads(report.read_text())
  assert (content['dataset'], content['num_patients'], content['errors']) == ('echonet', 4, 1)
