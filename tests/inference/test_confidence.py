"""Expected Dice, temperature and the threshold, on draws of known truth."""

import json

import numpy as np
import pytest
from scipy import special

from echoforge_jax.clip import IGNORE
from echoforge_jax.errors import InputError
from echoforge_jax.inference import confidence

SIZE = 48


def disc(radius):
  rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
  return radius - np.hypot(rows, columns)


def drawn(clips, sharpness, temperature, seed=0, frames=3):
  """Logits `temperature` times too sure, and truth drawn from the right ones.

  The true outline is that of the logits, moved: its signed distance has a
  logistic error of scale 1 / sharpness, as one draw a frame.
  """
  rng = np.random.default_rng(seed)
  for clip in range(clips):
    scale = 1 / sharpness[clip % len(sharpness)]
    logits = np.stack([disc(rng.uniform(8, 18)) for _ in range(frames)])
    moved = rng.logistic(0, scale, (frames, 1, 1))
    truth = (logits + moved > 0).astype(np.uint8)
    yield (temperature * logits / scale).astype(np.float32), truth


def test_expected_dice_of_certain_even_and_empty_masks():
  p = np.zeros((3, 8, 8))
  p[0, 2:6, 2:6] = 1
  p[1, 2:6, 2:6] = 0.75
  p[2] = 0.3
  assert confidence.expected_dice(p) == pytest.approx([1, 2 * 12 / (16 + 12), 0])


def test_expected_dice_is_the_mean_over_draws():
  rng = np.random.default_rng(0)
  p = special.expit(disc(14) / 2)
  mask = p > 0.5
  found = []
  for _ in range(300):
    truth = rng.random(p.shape) < p
    found.append(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
  assert confidence.expected_dice(p) == pytest.approx(np.mean(found), abs=0.01)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
def test_temperature_is_found(temperature):
  clips = list(drawn(160, [0.5, 1.0, 2.0], temperature))
  facts = confidence.fit(clips)
  assert facts['temperature'] == pytest.approx(temperature, rel=0.2)
  if temperature != 1:
    assert facts['ece']['after'] < 0.6 * facts['ece']['before']
  assert facts['frame_expected_dice'] == pytest.approx(facts['frame_dice'], abs=0.02)
  assert facts['correlation'] > 0.3
  risk = facts['risk_coverage']
  assert risk['aurc_oracle'] < risk['aurc'] < risk['aurc_random']


def test_threshold_divides_good_frames_from_poor_ones():
  facts = confidence.fit(list(drawn(201, [0.15, 3.0, 3.0], 1.0)))
  assert 0 < facts['low'] < 1
  assert facts['dice_low'] < confidence.POOR < facts['dice_rest']


def test_where_all_frames_are_good_those_less_sure_are_flagged():
  clips = list(drawn(40, [6.0], 1.0))
  facts = confidence.fit(clips)
  expected, _ = confidence._frames(clips[0::2], confidence.Scaling.from_facts(facts))
  assert facts['low'] == pytest.approx(expected.min()) and facts['share_low'] < 0.2


def test_frames_that_are_not_useless_are_seldom_flagged():
  clips = list(drawn(201, [0.1, 0.3, 0.2], 1.0))  # All of them poor.
  facts = confidence.fit(clips)
  scaling = confidence.Scaling.from_facts(facts)
  expected, dice = confidence._frames(clips, scaling)
  useful = dice >= confidence.USELESS
  assert dice[useful].mean() < 0.95
  assert (expected[useful] < facts['low']).mean() == pytest.approx(0.15, abs=0.06)
  assert (expected[~useful] < facts['low']).mean() > 0.3


def test_unlabeled_frames_do_not_count():
  clips = list(drawn(40, [1.0], 1.0))
  hidden = [(logits, masks.copy()) for logits, masks in clips]
  for _, masks in hidden:
    masks[0] = IGNORE
  assert confidence.fit(hidden)['n_frames'] == 2 * len(hidden[1::2])


def test_too_few_clips_are_refused():
  with pytest.raises(InputError, match='found 3 validation clips'):
    confidence.fit(list(drawn(3, [1.0], 1.0)))
  empty = [(logits, 0 * masks) for logits, masks in drawn(40, [1.0], 1.0)]
  with pytest.raises(InputError, match='found 0'):
    confidence.fit(empty)


def test_scaling_survives_json():
  facts = confidence.fit(list(drawn(40, [1.0], 2.0)))
  again = confidence.Scaling.from_facts(json.loads(json.dumps(facts)))
  assert again.temperature == facts['temperature'] and again.facts
  assert confidence.Scaling.from_facts(None) == confidence.Scaling()
  p = again.probability(np.array([again.temperature], np.float32))
  assert p == pytest.approx(special.expit(1.0), abs=1e-6)
