"""Every config holds the values it should, builds, and explains its fields."""

import dataclasses
import json
from pathlib import Path
import re

import jax
import jax.numpy as jnp
import pytest

from echoforge_jax.config import base_config, flatten
from echoforge_jax.errors import InputError
from echoforge_jax.models import build_model
from echoforge_jax.training import build, variants
from tests.configs import load_config

FOLDER = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[a-z]*.py'))
# What every config held before configs/base.py: `camus_echoforge` whole, of the
# others the fields that differ from it; null: it has no such field.
BEFORE = json.loads((Path(__file__).parent / 'configs_before_base.json').read_text())
# Options of the models that no config named; the models' defaults.
CAME = {
  'model.dim',
  'model.decoder_dim',
  'model.num_queries',
  'model.heads',
  'model.neighbours',
  'model.knn',
  'model.patch',
  'model.band',
  'model.pull',
}
# Fields that came later.
ADDED = {'data.labeled_patients', 'data.unlabeled_window', 'data.augmentation.uneven'}
ADDED |= {'model.pull_shape', 'model.least_temperature'}
ADDED |= {'objective.references', 'objective.gate', 'objective.mixed'}
PAPER_STEPS = {
  'camus_echoforge': (10000, 800),
  'camus_sscf': (10000, 800),
  'echonet_echoforge': (23328, 7465),
}


@pytest.mark.parametrize('name', sorted(BEFORE))
def test_every_value_is_as_it_was(name, get_config):
  wanted = {
    field: value
    for field, value in (BEFORE['camus_echoforge'] | BEFORE[name]).items()
    if value is not None
  }
  name, _, variant = name.partition(':')
  config = get_config(name, variant)
  found = json.loads(json.dumps(flatten(config.to_dict())))
  if name in PAPER_STEPS:  # The length follows from the clips.
    steps, clips = PAPER_STEPS[name]
    assert (wanted['num_steps'], found['num_steps']) == (steps, 0)
    assert build.num_steps(config, clips) == steps
    del wanted['num_steps'], found['num_steps']
  assert found.pop('num_epochs') == 50
  new = found.keys() - wanted.keys()
  came = CAME if config.model.name == 'echoforge' else {'model.backbone'}
  assert new <= came | ADDED
  assert {k: v for k, v in found.items() if k not in new} == wanted


@pytest.mark.parametrize('name', ['echoforge', 'sscf'])
def test_the_base_names_every_option_of_a_model_with_its_default(name):
  options = base_config(name).model.to_dict()
  del options['name']
  model = build_model(name)
  fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
  for handled_elsewhere in ('num_classes', 'dtype', 'parent', 'name'):
    del fields[handled_elsewhere]
  if name == 'sscf':  # Training takes clips, the module windows.
    assert options.pop('clips') and not fields.pop('clips')
  assert options == fields


@pytest.mark.parametrize('labeled, unlabeled, steps', [(4, 0, 10_000), (16, 0, 2500), (4, 4, 5000)])
def test_the_length_follows_clips_and_batch(labeled, unlabeled, steps):
  config = base_config()
  config.batch_size, config.unlabeled_batch_size = labeled, unlabeled
  assert build.num_steps(config, 800) == steps
  config.num_steps = 7
  assert build.num_steps(config, 800) == 7


def test_endless_clips_have_no_epochs(get_config):
  config = get_config('default_model').copy_and_resolve_references()
  assert build.count_clips(config) is None
  with config.unlocked():
    config.num_steps = 0
  with pytest.raises(InputError, match='num_steps is 0.*no epochs'):
    build.count_clips(config)


def shorten(config):
  """Returns the config with a short backbone: tests of the models build the deep ones."""
  config = config.copy_and_resolve_references()
  if config.model.backbone.startswith('resnet'):
    config.model.backbone = 'resnet10'
  return config.lock()


def one_of_each():
  """Yields configs that differ in more than sizes and data."""
  seen = set()
  # `tiny` is trained, in tests/commands; `base` is what `camus_echoforge` gives.
  for name in sorted(set(NAMES) - {'tiny', 'base'}):
    config = shorten(load_config(name))
    model = config.model.to_dict()
    kind = [value for value in model.values() if not isinstance(value, (int, float))]
    switches = [value for value in model.values() if isinstance(value, bool)]
    learning = config.objective.to_dict(), config.dtype, len(config.data.classes)
    if (key := str((kind, switches, learning))) not in seen:
      seen.add(key)
      yield name


@pytest.mark.slow
@pytest.mark.parametrize('name', one_of_each())
def test_every_config_builds(name, get_config):
  assert get_config(name).is_locked
  config = shorten(get_config(name))
  parts = build.make_parts(config)
  data, size = config.data, config.data.image_size
  clips = config.batch_size + config.unlabeled_batch_size
  video = jax.ShapeDtypeStruct((clips, data.num_frames, size, size, 1), jnp.uint8)
  batch = {
    'video_weak': video,
    'video_strong': video,
    'masks': jax.ShapeDtypeStruct(video.shape[:-1], jnp.uint8),
    'labeled': jax.ShapeDtypeStruct(video.shape[:2], jnp.bool_),
  }
  state = jax.eval_shape(parts.create_state)
  after, logged = jax.eval_shape(
    parts.train_step, state, {key: batch[key] for key in parts.batch_keys}
  )
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), state)
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}
  wanted = {'loss', 'loss_supervised', 'loss_unsupervised'}
  if config.objective.name == 'supervised':
    wanted.remove('loss_unsupervised')
  assert wanted <= set(logged)


@pytest.mark.slow
@pytest.mark.parametrize('variant', sorted(variants.VARIANTS))
def test_every_variant_builds(variant, get_config):
  config = get_config('tiny', variant)
  parts = build.make_parts(config)
  names = set(jax.eval_shape(parts.create_state).params)
  row = variants.VARIANTS[variant]
  assert ('tsf' in names, 'arc' in names, 'cpr' in names) == (row.tsf, row.arc, row.cpr)
  assert ('video_weak' in parts.batch_keys) == (row.objective != 'supervised')
  steps = jnp.array([0, config.num_steps // 2, config.num_steps - 1])
  values = jax.vmap(build.make_schedule(config))(steps)
  if variant == 'fixmatch':
    assert values.weight.tolist() == [1.0] * 3
    assert len(set(values.threshold.tolist())) == 1
  if variant == 'mean_teacher':
    assert 0 < values.weight[0] < 0.1 < 1 < values.weight[-1]


@pytest.mark.parametrize('name', NAMES)
def test_an_unknown_variant_lists_the_choices(name, get_config):
  choices = {
    'sscf': 'supervised',
    'default_model': 'there are no variants',
    'base': 'echoforge, sscf',
  }
  choices = next(
    (text for part, text in choices.items() if part in name), 'baseline, tsf, tsf_arc, all'
  )
  with pytest.raises(InputError, match=choices):
    get_config(name, 'most')


def test_sscf_learns_from_labels_alone_if_asked_to(get_config):
  config = get_config('phantom_sscf_lite', 'supervised')
  assert build.make_objective(config).teacher is None
  assert build.make_objective(get_config('phantom_sscf_lite')).teacher


def test_every_field_of_the_base_has_a_comment():
  text = (FOLDER / 'base.py').read_text().partition('def _learn_by')[0]
  lines = text.splitlines()
  fields = [
    i
    for i, line in enumerate(lines)
    if re.match(r'  [a-z]+\.[a-z_.]+ = (?!(ConfigDict|_[a-z]+)\(\)$)', line)
    and 'MODELS' not in line
  ]
  assert len(fields) > 70
  for i in fields:
    assert lines[i - 1].startswith('  # '), lines[i]
