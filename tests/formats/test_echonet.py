"""The EchoNet reader on small folders in the provider's format."""

import csv

from matplotlib.path import Path as Polygon
import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.data import pipeline
from echoforge_jax.data.prepare import ClipsFailed
from echoforge_jax.data.prepare import prepare as prepare_dataset
from echoforge_jax.data.prepared import read_index
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.formats import echonet
from echoforge_jax.formats.echonet_clip import tracing_mask
from echoforge_jax.formats.video import encode_mjpg, read_video

HEAD = [
  'FileName',
  'EF',
  'ESV',
  'EDV',
  'FrameHeight',
  'FrameWidth',
  'FPS',
  'NumberOfFrames',
  'Split',
]


def ellipse_rows(a, b=30.0):
  """A tracing of an ellipse: long axis, then 20 chords."""
  y = np.linspace(-b, b, 22)[1:-1]
  half = a * np.sqrt(1 - (y / b) ** 2)
  chords = np.stack([56 - half, 56 + y, 56 + half, 56 + y], axis=1)
  return np.concatenate([[[56, 56 - b, 56, 56 + b]], chords])


def write(root, clips):
  """clips: name -> dict(split, ed, es, frames), written as the provider."""
  (root / 'Videos').mkdir(parents=True)
  rng = np.random.default_rng(0)
  with (
    (root / 'FileList.csv').open('w', newline='') as files,
    (root / 'VolumeTracings.csv').open('w', newline='') as tracings,
  ):
    table, traced = csv.writer(files), csv.writer(tracings)
    table.writerow(HEAD)
    traced.writerow(['FileName', 'X1', 'Y1', 'X2', 'Y2', 'Frame'])
    for name, clip in clips.items():
      frames = rng.integers(20, 200, (clip.get('frames', 16), 112, 112), np.uint8)
      (root / 'Videos' / f'{name}.avi').write_bytes(encode_mjpg(frames, 50))
      table.writerow([name, 60, 40, 100, 112, 112, 50, len(frames), clip.get('split', 'TRAIN')])
      for frame, a in ((clip.get('ed', 2), 20), (clip.get('es', 13), 14)):
        for row in ellipse_rows(a):
          traced.writerow([f'{name}.avi', *row, frame])
  return root


def edit(root, file, change):
  path = root / file
  path.write_text(change(path.read_text()))


def test_the_mask_is_the_polygon_of_the_chords():
  rows = ellipse_rows(20)
  mask = tracing_mask(rows, (112, 112)).astype(bool)
  x = np.r_[rows[1:, 0], rows[:0:-1, 2]].round()
  y = np.r_[rows[1:, 1], rows[:0:-1, 3]].round()
  grid = np.stack(np.mgrid[:112, :112][::-1], -1).reshape(-1, 2)
  outline = Polygon(np.stack([x, y], 1))
  inside = outline.contains_points(grid, radius=-1e-6)
  around = outline.contains_points(grid, radius=1e-6)
  # Which pixels on the outline itself count is the library's rule.
  both = inside & around
  assert mask.ravel()[both].all() and not mask.ravel()[~(inside | around)].any()
  assert mask.sum() == pytest.approx(np.pi * 20 * 30, rel=0.05)
  with pytest.raises(ValueError, match='2 tracing rows'):
    tracing_mask(rows[:2], (112, 112))


@pytest.mark.parametrize('ed,es', [(2, 13), (13, 2)])
def test_ed_is_the_larger_tracing_wherever_it_is(tmp_path, ed, es):
  clip = echonet.read_clip(write(tmp_path / 'r', {'0XA': {'ed': ed, 'es': es}}), '0XA')
  assert (clip.ed, clip.es) == (ed, es)
  assert clip.frames.shape == clip.masks.shape == (16, 112, 112)
  assert np.flatnonzero(clip.labeled).tolist() == [2, 13]
  assert np.isnan(clip.spacing_mm).all() and clip.ef_percent == 60
  assert clip.masks[ed].sum() > clip.masks[es].sum()


def test_gray_levels_survive_mjpg(tmp_path):
  smooth = np.add.outer(np.arange(112), np.arange(112)).astype(np.uint8)
  path = tmp_path / 'a.avi'
  path.write_bytes(encode_mjpg(np.stack([smooth] * 3), 30))
  frames = read_video(path).frames
  assert frames.shape == (3, 112, 112)
  assert np.abs(frames.astype(int) - smooth).max() <= 6


@pytest.mark.parametrize(
  'file,change,said',
  [
    ('FileList.csv', lambda t: t.replace('0XA,60', '0XA,sixty'), 'EF is'),
    ('FileList.csv', lambda t: t.replace('TRAIN', 'HOLDOUT'), 'HOLDOUT'),
    ('FileList.csv', lambda t: t + t.splitlines()[1] + '\n', 'in lines 2 and 3'),
    (
      'VolumeTracings.csv',
      lambda t: t.replace(',13\n', ',99\n').replace(',13\r\n', ',99\r\n'),
      'frame 99',
    ),
    ('VolumeTracings.csv', lambda t: t.split('\n')[0] + '\n', '0 traced frames'),
    (
      'VolumeTracings.csv',
      lambda t: t.replace(',13\r\n', ',2\r\n').replace(',13\n', ',2\n'),
      '1 traced frames',
    ),
  ],
)
def test_a_clip_that_cannot_be_used_says_why(tmp_path, file, change, said):
  root = write(tmp_path / 'r', {'0XA': {}})
  edit(root, file, change)
  with pytest.raises(InputError, match=said):
    echonet.read_clip(root, '0XA')


@pytest.mark.parametrize('keep', [20, 0.3, 0.9])
def test_a_cut_video_is_refused_by_name(tmp_path, keep):
  root = write(tmp_path / 'r', {'0XA': {}})
  path = echonet.video_path(root, '0XA')
  data = path.read_bytes()
  path.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
  with pytest.raises(InputError, match='0XA.avi: found .*fetch the files again'):
    echonet.read_clip(root, '0XA')


def test_names_case_and_byte_order_marks(tmp_path):
  root = write(tmp_path / 'r', {'0XA': {}})
  edit(
    root, 'FileList.csv', lambda t: '\ufeff' + t.replace('0XA', '0XA.avi').replace('TRAIN', 'train')
  )
  dataset = echonet.Dataset(root)
  assert dataset.clips_of('train') == [('0XA', '4CH')]
  assert dataset.read_clip('0XA').labeled.sum() == 2


def test_missing_columns_and_tables(tmp_path):
  root = write(tmp_path / 'r', {'0XA': {}})
  edit(root, 'FileList.csv', lambda t: t.replace('Split', 'Fold'))
  with pytest.raises(InputError, match='FileList.csv.*Split'):
    echonet.Dataset(root)
  (root / 'FileList.csv').unlink()
  with pytest.raises(InputError, match='FileList.csv: cannot be read'):
    echonet.Dataset(root)


@pytest.fixture
def cohort(tmp_path):
  root = write(
    tmp_path / 'raw',
    {
      '0XA': {},
      '0XB': {'ed': 13, 'es': 2},
      '0XC': {'split': 'VAL'},
      '0XD': {'split': 'TEST', 'ed': 13, 'es': 2, 'frames': 20},
      '0XE': {},
    },
  )
  return root, tmp_path / 'data'


def prepare(root, data, **options):
  return prepare_dataset('echonet', root, data, 32, **options)


def test_training_clips_are_cut_and_others_whole(cohort):
  prepared = prepare(*cohort)
  assert prepared.counts == {'train': (3, 3, 36), 'validation': (1, 1, 16), 'test': (1, 1, 20)}
  spec = DataSpec(data_dir=cohort[1], dataset='echonet', image_size=32, num_frames=10)
  (known,) = pipeline.eval_clips(spec, 'test')
  assert known['frames'][0] == 13 and known['frames'][-1] == 2
  assert known['labeled'].tolist() == [True] + [False] * 8 + [True]
  assert (known['masks'][0] == 1).sum() > (known['masks'][-1] == 1).sum()
  (whole,) = pipeline.eval_clips(spec, 'test', 'all')
  assert len(whole['video']) == 20 and (whole['ed'], whole['es']) == (13, 2)
  for clip in pipeline.eval_clips(spec, 'train', 'all'):
    assert len(clip['video']) == 12 and (clip['ed'], clip['es']) == (0, 11)
    assert tuple(clip['native_size']) == (112, 112)


def test_unreadable_clips_cost_themselves_only(cohort, capsys):
  root, data = cohort
  path = echonet.video_path(root, '0XE')
  whole = path.read_bytes()
  path.write_bytes(whole[:100])
  flags = ['prepare', '--dataset=echonet', f'--raw={root}', f'--data_dir={data}', '--image_size=32']
  assert main(flags) == 1
  out, err = capsys.readouterr()
  assert '1 clips left out' in out and '0XE.avi' in out
  assert '--allow_skips' in err
  assert main([*flags, '--allow_skips']) == 0
  index = read_index(data / 'echonet/official_32/1.0.0')
  assert [s['patient'] for s in index['skipped']] == ['0XE']
  assert len(index['clips']['train']) == 2
  assert main(flags) == 1  # Without the flag it is not complete.
  path.write_bytes(whole)
  assert main([*flags, '--overwrite']) == 0
  assert not read_index(data / 'echonet/official_32/1.0.0')['skipped']


def test_exclusions(cohort, tmp_path, capsys):
  root, data = cohort
  names = tmp_path / 'names.txt'
  names.write_text('0XA.avi  # blurred\n\n')
  flags = ['prepare', '--dataset=echonet', f'--raw={root}', f'--data_dir={data}', '--image_size=32']
  assert main([*flags, f'--exclude={names}']) == 0
  index = read_index(data / 'echonet/official_32/1.0.0')
  assert {c['patient'] for c in index['clips']['train']} == {'0XB', '0XE'}
  assert index['excluded'] == ['0XA']
  assert main(flags) == 2  # Another list wants --overwrite.
  assert main([*flags, '--exclude=none', '--overwrite']) == 0
  assert main([*flags, '--exclude=absent.txt']) == 2
  # The release's own untraced clips may be named wherever they are absent.
  names.write_text(f'{echonet.DEFAULT_EXCLUDED[0]}\n0XTYPO\n')
  capsys.readouterr()
  assert main([*flags, '--overwrite', f'--exclude={names}']) == 2
  error = capsys.readouterr().err
  assert "found '0XTYPO', wanted names that" in error


def test_skips_are_refused_by_default(cohort):
  root, data = cohort
  echonet.video_path(root, '0XA').unlink()
  with pytest.raises(ClipsFailed) as caught:
    prepare(root, data)
  assert [s['patient'] for s in caught.value.skipped] == ['0XA']
  assert prepare(root, data, allow_skips=True).counts['train'][0] == 2
