"""A tiny EchoForge with random parameters, made without compiling."""

import pytest

from echoforge_jax.models import build_model
from echoforge_jax.training import build
from tests.configs import load_config
from tests.inference.clips import make_workdir, random_segmenter


@pytest.fixture(scope='session')
def config():
  return load_config('tiny')


@pytest.fixture(scope='session')
def segmenter(config):
  return random_segmenter(build.make_model(config), config.data.image_size)


@pytest.fixture(scope='session')
def looking_ahead():
  """A Segmenter with an SSCF, whose masks lag one frame behind."""
  return random_segmenter(
    build_model('sscf', width=4, backbone='resnet10', clips=True, norm='group')
  )


@pytest.fixture(scope='session')
def workdir(config, tmp_path_factory):
  """A run's workdir: config and one checkpoint of a random state."""
  return make_workdir(tmp_path_factory.mktemp('run'), config)
