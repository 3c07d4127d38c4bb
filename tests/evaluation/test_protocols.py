import json

import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.protocols import PROTOCOLS, get_protocol


def test_semi_scores_the_ends_and_full_scores_all():
  assert get_protocol('camus_semi').scored_frames(10) == [0, 9]
  assert get_protocol('camus_full').scored_frames(10) == list(range(10))
  assert get_protocol('camus_semi').scored_frames(1) == [0]
  assert get_protocol('camus_full').num_frames == 10
  assert get_protocol('camus_full').threshold == 0.5


def test_published_settings_are_there():
  assert {'camus_semi', 'camus_full', 'echonet'} <= set(PROTOCOLS)
  echonet = get_protocol('echonet')
  assert echonet.dataset == 'echonet' and echonet.score == 'ends'
  assert not echonet.metric_spacing and echonet.ef_method == 'discs'
  for name in ('camus_semi', 'camus_full'):
    one, other = get_protocol(name), get_protocol(f'{name}_memsam')
    assert (one.split_scheme, other.split_scheme) == ('official', 'memsam')
    assert (one.score, one.sampler) == (other.score, other.sampler)


def test_unknown_protocol_lists_the_choices():
  with pytest.raises(InputError, match='nope.*camus_semi, camus_full'):
    get_protocol('nope')


def write(tmp_path, **changes):
  fields = {
    'name': 'mine',
    'score': 'all',
    'description': 'ours',
    'num_frames': 6,
    'pooling': 'frame',
    **changes,
  }
  path = tmp_path / 'mine.json'
  path.write_text(json.dumps(fields))
  return str(path)


def test_a_file_gives_a_protocol(tmp_path):
  protocol = get_protocol(write(tmp_path))
  assert (protocol.name, protocol.num_frames) == ('mine', 6)
  assert protocol.pooling == 'frame' and protocol.ef_method == 'biplane'


@pytest.mark.parametrize(
  'changes,said',
  [
    ({'name': 'camus_semi'}, 'built-in'),
    ({'sampler': 'random'}, 'linspace'),
    ({'num_frames': 1}, '2 or more'),
    ({'threshold': 1.0}, 'between 0 and 1'),
    ({'dataset': 'mars'}, "mars', wanted one of '', camus, echonet"),
    ({'metric_spacing': 'no'}, 'true or false'),
    ({'name': 7}, 'a text'),
    ({'framez': 3}, 'framez'),
    ({'ef_method': 'ellipse'}, 'area_length'),
  ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, changes, said):
  with pytest.raises(InputError, match=said):
    get_protocol(write(tmp_path, **changes))


def test_a_file_that_is_no_json_names_itself(tmp_path):
  (tmp_path / 'p.json').write_text('camus_semi')
  with pytest.raises(InputError, match='p.json.*not a protocol'):
    get_protocol(str(tmp_path / 'p.json'))
  with pytest.raises(InputError, match='absent.json'):
    get_protocol(str(tmp_path / 'absent.json'))
