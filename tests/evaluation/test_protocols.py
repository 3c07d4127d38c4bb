import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.protocols import get_protocol


def test_semi_scores_the_ends_and_full_scores_all():
  assert get_protocol('camus_semi').scored_frames(10) == [0, 9]
  assert get_protocol('camus_full').scored_frames(10) == list(range(10))
  assert get_protocol('camus_semi').scored_frames(1) == [0]
  assert get_protocol('camus_full').num_frames == 10
  assert get_protocol('camus_full').threshold == 0.5


def test_unknown_protocol_lists_the_choices():
  with pytest.raises(InputError, match='nope.*camus_semi, camus_full'):
    get_protocol('nope')
