"""Readers from outside the package: `verify`, `prepare` and what they refuse."""

import dataclasses
import json

import numpy as np
import pytest

from echoforge_jax import Clip
from echoforge_jax.__main__ import main
from echoforge_jax.data import datasets
from echoforge_jax.data.prepared import load_split
from echoforge_jax.errors import InputError

NAME = f'{__name__}:Duck'
# Codes of `findings.CODES` that the tests below plant.
PLANTED = {'clip-unreadable', 'listed-twice', 'split-leak'}
FRAMES = np.arange(3 * 40 * 30, dtype=np.uint8).reshape(3, 40, 30)
SPLITS = {'train': ['a', 'b'], 'validation': ['c'], 'test': []}
CLIP = Clip(
  patient='a',
  view='4CH',
  frames=FRAMES,
  masks=(FRAMES > 90).astype(np.uint8),
  labeled=np.array([True, False, True]),
  ed=0,
  es=2,
  spacing_mm=np.full(2, 0.5, np.float32),
)


class Duck:
  """No subclass of `Reader`: two methods, and its own constructor."""

  def __init__(self, folder):
    self.folder = folder

  def list_clips(self, split, scheme):
    return [(patient, '4CH') for patient in SPLITS[split]]

  def read_clip(self, patient, view):
    return dataclasses.replace(CLIP, patient=patient, view=view)


class Faulty(Duck):
  def list_clips(self, split, scheme):
    return {
      'train': [('a', '4CH'), ('a', '4CH'), ('b', '4CH'), ('d', '4CH')],
      'validation': [('b', '2CH')],
      'test': [],
    }[split]

  def read_clip(self, patient, view):
    if patient == 'a':
      return [][0]
    if patient == 'd':
      raise InputError('d.png: found no image')
    return super().read_clip(patient, view)


class OneMethod:
  def list_clips(self, split, scheme):
    return []


class Raises(Duck):
  def __init__(self, folder):
    raise KeyError('manifest')


def test_verify_and_prepare_take_a_class_from_outside(tmp_path, capsys):
  flags = [f'--dataset={NAME}', f'--raw={tmp_path}']
  assert main(['verify', *flags]) == 0
  assert '3 patients verified: 0 errors, 0 warnings' in capsys.readouterr().out
  assert main(['prepare', *flags, f'--data_dir={tmp_path / "data"}', '--image_size=32']) == 0
  (folder,) = (tmp_path / 'data').iterdir()
  assert folder.name == 'tests_data_test_datasets_Duck'
  source = load_split(tmp_path / 'data', NAME, 'train')
  assert [clip['patient'] for clip in source.clips] == ['a', 'b'] and not source.synthetic
  assert source[0]['frames'].shape == (3, 32, 32)
  with pytest.raises(InputError, match='no clip'):
    load_split(tmp_path / 'data', NAME, 'test')
  # The prepared data lies in the raw folder, and does not count as a change of it.
  assert main(['prepare', *flags, f'--data_dir={tmp_path / "data"}', '--image_size=32']) == 0
  assert 'already complete' in capsys.readouterr().out


def test_default_verification_names_every_fault(tmp_path, capsys):
  report = tmp_path / 'report.json'
  name = f'{__name__}:Faulty'
  assert main(['verify', f'--dataset={name}', f'--raw={tmp_path}', f'--json={report}']) == 1
  findings = json.loads(report.read_text())['findings']
  assert {finding['code'] for finding in findings} == PLANTED
  unreadable = [f['found'] for f in findings if f['code'] == 'clip-unreadable']
  assert len(unreadable) == 2 and 'd.png: found no image' in unreadable
  assert any('a 4CH (list index out of range; IndexError at' in found for found in unreadable)


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(frames=FRAMES[0]), r'wanted uint8 \(40, 30\)'),
    (dict(frames=FRAMES.astype(np.float32)), 'frames is float32'),
    (dict(masks=CLIP.masks[:2]), r'masks is uint8 \(2, 40, 30\), wanted uint8 \(3, 40, 30\)'),
    (dict(masks=4 * CLIP.masks), 'the label 4'),
    (dict(labeled=np.ones(3)), 'labeled is float64'),
    (dict(spacing_mm=0.5), r'spacing_mm is float64 \(\)'),
    (dict(es=3), 'ED and ES are 0 and 3, wanted two of the frames 0 to 2'),
    (dict(es=0), 'ED and ES are 0 and 0'),
  ],
)
def test_malformed_clips_are_refused(tmp_path, change, words):
  reader = datasets.reader_of(NAME)(tmp_path)
  reader.read_clip = lambda patient, view: dataclasses.replace(CLIP, **change)
  with pytest.raises(InputError, match=f'cannot read a 4CH: .*{words}'):
    datasets.read_checked(reader, 'a', '4CH')


class ListsNames(Duck):
  def list_clips(self, split, scheme):
    return [('a', '4CH'), ('b', 4)] if split == 'train' else [][0]


def test_malformed_lists_are_one_line(tmp_path, capsys):
  reader = datasets.reader_of(f'{__name__}:ListsNames')(tmp_path)
  first, *others = (finding.found for finding in reader.verify())
  assert "cannot list the split 'train': found ('b', 4), wanted pairs of names" in first
  assert len(others) == 2 and all('IndexError at' in found for found in others)
  flags = [f'--dataset={__name__}:ListsNames', f'--raw={tmp_path}']
  assert main(['verify', *flags]) == 1
  assert '0 patients verified: 3 errors' in capsys.readouterr().out
  assert main(['prepare', *flags, f'--data_dir={tmp_path / "data"}']) == 2
  assert capsys.readouterr().err.count('\n') == 1


def test_what_is_no_reader_is_refused(tmp_path):
  for name, words in {
    'ted': r"found 'ted', wanted one of \['camus', 'echonet'",
    f'{__name__}:CLIP': 'is of type Clip, wanted a class',
    f'{__name__}:OneMethod': 'no method read_clip',
  }.items():
    with pytest.raises(InputError, match=words):
      datasets.reader_of(name)
  with pytest.raises(InputError, match="'manifest'; KeyError at .*test_datasets.py:"):
    datasets.reader_of(f'{__name__}:Raises')(tmp_path)
  with pytest.raises(InputError, match='no such folder'):
    datasets.reader_of(NAME)(tmp_path / 'none')
