"""Every config builds, in every variant, and says what its fields mean."""

from pathlib import Path
import re

import jax
import jax.numpy as jnp
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.training import build, variants

FOLDER = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('[a-z]*.py'))


# `tiny` is trained, in tests/commands.
@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in NAMES if name != 'tiny'])
def test_every_config_builds(name, get_config):
  config = get_config(name)
  assert config.is_locked
  parts = build.make_parts(config)
  data, size = config.data, config.data.image_size
  clips = config.batch_size + config.unlabeled_batch_size
  video = jax.ShapeDtypeStruct(
    (clips, data.num_frames, size, size, 1), jnp.uint8
  )
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
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {
    jnp.dtype('float32')
  }
  wanted = {'loss', 'loss_supervised', 'loss_unsupervised'}
  if config.objective.name == 'supervised':
    wanted.remove('loss_unsupervised')
  assert wanted <= set(logged)


@pytest.mark.parametrize('variant', sorted(variants.VARIANTS))
def test_every_variant_builds(variant, get_config):
  config = get_config('tiny', variant)
  parts = build.make_parts(config)
  names = set(jax.eval_shape(parts.create_state).params)
  row = variants.VARIANTS[variant]
  assert ('tsf' in names, 'arc' in names, 'cpr' in names) == (
    row.tsf,
    row.arc,
    row.cpr,
  )
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
  choices = {'sscf': 'supervised', 'default_model': 'there are no variants'}
  choices = next(
    (text for part, text in choices.items() if part in name),
    'baseline, tsf, tsf_arc, all',
  )
  with pytest.raises(InputError, match=choices):
    get_config(name, 'most')


def test_sscf_learns_from_labels_alone_if_asked_to(get_config):
  config = get_config('phantom_sscf_lite', 'supervised')
  assert build.make_objective(config).teacher is None
  assert build.make_objective(get_config('phantom_sscf_lite')).teacher


@pytest.mark.parametrize('name', NAMES)
def test_every_field_has_a_comment(name):
  lines = (FOLDER / f'{name}.py').read_text().splitlines()
  fields = [
    i
    for i, line in enumerate(lines)
    if re.match(r'  config\.[a-z_.]+ = (?!ConfigDict\(\)$)', line)
  ]
  assert len(fields) > 30
  for i in fields:
    assert lines[i - 1].startswith('  # '), lines[i]
