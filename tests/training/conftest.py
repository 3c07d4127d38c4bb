"""A model, an iterator and a config small enough to train in a test."""

import pytest

from tests.configs import load_config
from tests.training import discs


@pytest.fixture(scope='session')
def tiny_model():
  return discs.TinyModel()


@pytest.fixture(scope='session')
def make_iterator():
  return discs.disc_iterator


@pytest.fixture(scope='session')
def make_clip():
  return discs.disc_clip


@pytest.fixture(scope='session')
def get_config():
  return load_config


@pytest.fixture
def tiny_config():
  return load_config('tiny', eval={'every': 0}, data=discs.PLAIN)
