"""Strict JSON, and files that appear whole or not at all."""

import json
import math

import numpy as np
import pytest

from echoforge_jax import textio


def test_json_is_strict_and_plain():
  value = {1: (np.float32(0.5), math.nan), 'a': np.array([1, 2]), 'b': None}
  assert textio.to_json(value) == {'1': [0.5, None], 'a': [1, 2], 'b': None}
  assert textio.to_json([1 / 3, -math.inf], digits=3) == [0.333, None]


def test_json_files_hold_null_for_nan(tmp_path):
  textio.write_json(tmp_path / 'x.json', {'ef': math.nan})
  assert json.loads((tmp_path / 'x.json').read_text()) == {'ef': None}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'x.bin'
  path.write_bytes(b'old')
  with pytest.raises(KeyError), textio.replacing(path) as temporary:
    temporary.write_bytes(b'ne')
    raise KeyError
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]
  with textio.replacing(path) as temporary:
    temporary.write_bytes(b'new')
    assert path.read_bytes() == b'old'
  assert path.read_bytes() == b'new'


def test_numbers_as_people_read_them():
  assert textio.number(0.12345, 2, 100) == '12.35'
  assert textio.number(math.nan, 2) == textio.p_text(None) == 'n/a'
  assert textio.interval((0.1, 0.25), 1, 10) == '[1.0, 2.5]'
  assert textio.interval((math.nan, 1), 1) == ''
  assert textio.p_text(0.04) == '.0400'
  assert textio.p_text(1e-6) == '<.0001'
  assert textio.columns([('a', 'bb'), ('ccc', 'd')]) == ['  a    bb', '  ccc  d']
  assert textio.first_line(ValueError('x\ny')) == 'x'
  assert textio.first_line(ValueError()) == 'ValueError'
