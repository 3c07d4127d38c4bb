"""The model that is shipped: made as its config says, and of use."""

import json
import pathlib

import numpy as np
from pydicom import examples
import pytest

from echoforge_jax import inference
from echoforge_jax.__main__ import main
from echoforge_jax.config import flatten
from echoforge_jax.data import pipeline
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.formats import readers
from echoforge_jax.inference import receipt
from echoforge_jax.metrics import temporal
from echoforge_jax.models import network_file
from echoforge_jax.models.echoforge import EchoForge
from tests.configs import load_config

REAL = str(examples.get_path('ybr_color'))


@pytest.fixture(scope='module')
def segmenter():
  return inference.load('default')


def test_it_is_small_and_comes_from_the_committed_config():
  assert network_file.default_path().stat().st_size < 10e6
  _, meta = network_file.read('default')
  config = load_config('default_model')
  wanted = json.loads(json.dumps(config.to_dict()))
  found, wanted = flatten(meta['config']), flatten(wanted)
  network = {k for k in wanted if k.startswith(('model.', 'data.classes'))}
  # Options that came later are what they are by default.
  later = {'pull_shape', 'least_temperature'}
  assert network - {f'model.{name}' for name in later} <= found.keys()
  assert {wanted[f'model.{name}'] == getattr(EchoForge, name) for name in later} == {True}
  for name in found.keys() & wanted.keys():
    assert found[name] == wanted[name], name
  assert meta['step'] == wanted['num_steps']
  assert meta['confidence']['n_frames'] >= 400
  error = meta['confidence']['ece']
  assert error['after'] < error['before']


@pytest.mark.slow
def test_it_segments_phantoms_it_has_not_seen(segmenter):
  spec = DataSpec(
    data_dir='',
    dataset='phantom_stream',
    image_size=segmenter.image_size,
    num_frames=4,
    stream=StreamConfig(held_out=8),
  )
  clips = pipeline.eval_clips(spec, 'validation')
  dice = []
  for clip in clips:
    found = segmenter.segment(clip['video'][..., 0]) == 1
    truth = clip['masks'] == 1
    dice += [2 * (f & t).sum() / (f.sum() + t.sum()) for f, t in zip(found, truth)]
  assert np.median(dice) > 0.85


@pytest.mark.slow
def test_it_follows_the_ventricle_of_a_real_clip(segmenter):
  clip = readers.read_any(REAL)
  sector = segmenter.locate(clip.frames, clip.spacing_mm, clip.region)
  found = segmenter.segment_clip(clip.frames, clip.spacing_mm, fps=clip.fps, sector=sector, lag=1)
  lv = found.masks == 1
  area = lv.sum((1, 2)) * np.prod(clip.spacing_mm) / 100
  # Looked at frame by frame: 20 to 45 cm2 between ES and ED.
  assert (area > 15).all() and (area < 50).all()
  assert area.max() > 1.25 * area.min()
  assert temporal.roughness(area) < 0.06
  # In the cavity in every frame; left of the septum; behind the atrium.
  assert lv[:, 85, 178].all()
  assert not lv[:, 100, 140].any() and not lv[:, 170, 170].any()


@pytest.mark.slow
def test_one_command_without_a_checkpoint(tmp_path, capsys):
  assert main(['segment', f'--out={tmp_path}', REAL]) == 0
  capsys.readouterr()
  result = json.loads((tmp_path / 'examples_ybr_color' / 'result.json').read_text())
  assert result['frames'] == 30 and result['model']['which'] == 'teacher'
  assert 20 < result['ef_percent'] < 75
  assert result['confidence']['calibrated']
  assert len(result['confidence']['frames']) == 30


def test_weights_that_have_seen_patients_say_so():
  weights = pathlib.Path(__file__).parents[2] / 'weights'
  assert 'CC BY-NC-SA 4.0' in (weights / 'LICENSE').read_text()
  seen = inference.load(weights / 'camus.safetensors')
  line = receipt.describe('camus', seen.receipt)
  assert '399 patients of camus; started from default' in line
  assert 'Research only: CC BY-NC-SA 4.0' in line
  assert seen.classes == ('lv', 'myo', 'la') and 0.8 < seen.scaling.low < 1
