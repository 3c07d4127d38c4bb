"""Metric lines survive a resume without duplicates."""

import importlib.util
import json
from typing import ClassVar

from etils import epath
from etils.epath import gpath
import fsspec
from fsspec.implementations import memory
from ml_collections import ConfigDict
import pytest

from echoforge_jax.training import writers
from echoforge_jax.training.workdir import claim_workdir, read_config


def lines(path):
  return [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]


def test_lines_after_the_restored_step_go(tmp_path):
  writer = writers.JsonLinesWriter(tmp_path)
  for step in (2, 4, 6):
    writer.write(step, 'train', {'loss': float(step)})
  writer.close()
  with (tmp_path / 'metrics.jsonl').open('a') as torn:
    torn.write('{"step": 8, "ki')
  writer = writers.JsonLinesWriter(tmp_path, start_step=4)
  writer.write(6, 'train', {'loss': 0.5})
  writer.close()
  assert [line['step'] for line in lines(tmp_path)] == [2, 4, 6]
  assert lines(tmp_path)[-1] == {'step': 6, 'kind': 'train', 'loss': 0.5}


class Bucket(memory.MemoryFileSystem):
  """Objects in memory behind `gs://`, as a bucket would hold them."""

  protocol = ('gs', 'gcs')
  store: ClassVar[dict] = {}
  pseudo_dirs: ClassVar[list] = ['']

  @classmethod
  def _strip_protocol(cls, path):
    return '/' + str(path).removeprefix('gs://').strip('/')


@pytest.fixture
def bucket(monkeypatch):
  monkeypatch.setattr(gpath, '_epath_use_tf', lambda: False)
  monkeypatch.setattr(Bucket, 'store', {})
  fsspec.register_implementation('gcs', Bucket, clobber=True)
  Bucket.clear_instance_cache()
  return 'gs://bucket/run'


def test_a_workdir_may_be_a_bucket(bucket):
  config = ConfigDict({'seed': 0})
  claim_workdir(bucket, config)
  assert read_config(bucket).to_dict() == config.to_dict()
  writer = writers.JsonLinesWriter(bucket)
  for step in (2, 4):
    writer.write(step, 'train', {'loss': float(step)})
  writer.close()
  writer = writers.JsonLinesWriter(bucket, start_step=2)
  writer.write(3, 'train', {'loss': 0.5})
  writer.close()
  assert [line['step'] for line in lines(epath.Path(bucket))] == [2, 3]
  assert set(Bucket.store) == {'/bucket/run/config.json', '/bucket/run/metrics.jsonl'}


def test_only_the_first_process_writes(tmp_path):
  many = writers.MetricWriters(tmp_path, start_step=0, is_primary=False)
  many.write(1, 'train', {'loss': 1.0})
  many.close()
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
  not all(importlib.util.find_spec(name) for name in ('tensorflow', 'tensorboard')),
  reason='TensorBoard is optional',
)
def test_tensorboard_where_it_is_installed(tmp_path):
  many = writers.MetricWriters(tmp_path, start_step=0, is_primary=True)
  many.write(1, 'train', {'loss': 1.0})
  many.close()
  assert list((tmp_path / 'tensorboard').iterdir())
