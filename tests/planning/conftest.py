"""The environment of TPUs' compiler."""

import os
from unittest import mock

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.planning import topology


@pytest.fixture(scope='module')
def libtpu():
  """libtpu's environment; skips where it is not installed."""
  with mock.patch.dict(os.environ):
    try:
      topology.prepare_environment()
    except InputError as error:
      pytest.skip(str(error))
    yield
