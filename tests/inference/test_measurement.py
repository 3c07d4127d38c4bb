"""Area curve, ED and ES, volumes and flags on masks of known truth."""

import ast
import dataclasses
import inspect
import math

import numpy as np
import pytest

from echoforge_jax.clip import LABELS
from echoforge_jax.formats import dicom, raw_clip, readers, video
from echoforge_jax.inference import checks, measurement, outputs
from echoforge_jax.metrics import beats, ejection
from tests.inference.clips import measured, segmentation


def ventricle(half_length, half_width, shape=(200, 200), spacing=(1.0, 1.0)):
  """A half ellipsoid's section: apex up, flat base, in pixels of `spacing`."""
  rows, columns = np.mgrid[: shape[0], : shape[1]]
  down = (rows - 0.75 * shape[0]) * spacing[0]
  across = (columns - shape[1] / 2) * spacing[1]
  return ((down / half_length) ** 2 + (across / half_width) ** 2 <= 1) & (down <= 0)


def beating(phases, spacing=(1.0, 1.0), shape=(200, 200), ed=(80, 25), es=(70, 18)):
  """Masks whose width and length follow phases: 0 at ED, 1 at ES."""
  masks = np.zeros((len(phases), *shape), np.uint8)
  for mask, phase in zip(masks, phases):
    size = [(1 - phase) * a + phase * b for a, b in zip(ed, es)]
    mask[ventricle(*size, shape, spacing)] = 1
  return masks


def cosine(frames, periods, start=0.0):
  return (1 - np.cos(2 * np.pi * (start + np.linspace(0, periods, frames, endpoint=False)))) / 2


def test_whole_cycle_measures_volumes():
  cycle = measured(beating(cosine(40, 1.0)), (1.0, 1.0), fps=40.0)
  assert (cycle.ed, cycle.es) == (0, pytest.approx(20, abs=1))
  # Half ellipsoid: V = 2/3 pi a b^2.
  truth = [2 / 3 * math.pi * a * b**2 / 1000 for a, b in ((80, 25), (70, 18))]
  assert cycle.edv_ml == pytest.approx(truth[0], rel=0.04)
  assert cycle.esv_ml == pytest.approx(truth[1], rel=0.04)
  assert cycle.ef_percent == pytest.approx(100 * (1 - truth[1] / truth[0]), abs=2)
  assert cycle.ef_method == 'discs'
  assert cycle.beats[0].ef_area_length == pytest.approx(cycle.ef_percent, abs=3)
  assert cycle.flags == ()
  assert cycle.area[0] == pytest.approx(math.pi / 2 * 80 * 25, rel=0.02)


def test_anisotropic_spacing_gives_the_same_volume():
  spacing = (0.9, 0.5)
  masks = beating(cosine(30, 1.0), spacing)
  cycle = measured(masks, spacing, fps=30.0)
  isotropic = measured(beating(cosine(30, 1.0)), (1.0, 1.0), fps=30.0)
  assert cycle.edv_ml == pytest.approx(isotropic.edv_ml, rel=0.02)
  assert cycle.ef_percent == pytest.approx(isotropic.ef_percent, abs=1.5)


def test_half_sequence_is_flagged_but_measured():
  cycle = measured(beating(np.linspace(0, 1, 12)), (1.0, 1.0), 50.0)
  assert (cycle.ed, cycle.es) == (0, 11)
  assert cycle.flags == ('no_full_cycle',)


def test_largest_beat_is_chosen_among_several():
  phases = cosine(90, 3.0, start=0.25)
  phases[25:55] -= 0.15 * np.hanning(30)  # The second ED is the largest.
  cycle = measured(beating(phases), (1.0, 1.0), fps=30.0)
  assert len(cycle.beats) >= 2
  assert 18 <= cycle.ed <= 56 and cycle.ed < cycle.es < cycle.ed + 30
  assert cycle.smooth[cycle.ed] == max(cycle.smooth[b.ed] for b in cycle.beats)
  assert 'no_full_cycle' not in cycle.flags


def test_a_beat_cut_by_the_end_is_chosen_last():
  phases = cosine(45, 1.5)  # ED, ES, ED, and falling until the clip ends.
  phases[20:] -= 0.15 * np.hanning(50)[:25]  # The cut beat's ED is larger.
  cycle = measured(beating(phases), (1.0, 1.0), fps=30.0)
  assert len(cycle.beats) == 2 and cycle.beats[1].es == 44
  assert cycle.smooth[cycle.beats[1].ed] > cycle.smooth[cycle.ed]
  assert (cycle.ed, cycle.es) == (0, pytest.approx(15, abs=2))
  assert 'no_full_cycle' not in cycle.flags
  phases[:20] += 0.6 * np.hanning(39)[19:]  # Now it starts after ED, too.
  both = measured(beating(phases), (1.0, 1.0), fps=30.0)
  assert both.es == 44 and 'no_full_cycle' in both.flags
  alone = measured(beating(phases[20:]), (1.0, 1.0), fps=30.0)
  assert alone.es == len(phases) - 21 and 'no_full_cycle' in alone.flags


def test_volumes_and_ef_are_means_over_whole_beats():
  phases = cosine(90, 3.0, start=0.25)
  phases[45:80] *= 0.6  # A beat that contracts less.
  cycle = measured(beating(phases), (1.0, 1.0), fps=30.0)
  whole = [beat for beat in cycle.beats if beat.whole]
  assert len(whole) >= 2 and (cycle.ed, cycle.es) == (whole[0].ed, whole[0].es)
  values = [beat.ef_percent for beat in whole]
  assert max(values) - min(values) > 5
  assert cycle.ef_percent == pytest.approx(np.mean(values))
  assert cycle.ef_sd == pytest.approx(np.std(values, ddof=1))
  assert cycle.edv_ml == pytest.approx(np.mean([b.edv_ml for b in whole]))
  assert cycle.esv_ml == pytest.approx(np.mean([b.esv_ml for b in whole]))
  one = measured(beating(cosine(40, 1.0)), (1.0, 1.0), fps=40.0)
  assert math.isnan(one.ef_sd) and len(one.beats) == 1


def test_a_beat_that_cannot_be_measured_is_left_out():
  masks = beating(cosine(90, 3.0, start=0.25))
  rows, columns = np.mgrid[:200, :200]
  for t in range(34, 42):  # The second ES falls into crumbs.
    masks[t] *= ((rows % 5 < 3) & (columns % 5 < 3)).astype(np.uint8)
  cycle = measured(masks, (1.0, 1.0), fps=30.0)
  values = [beat.ef_percent for beat in cycle.beats if beat.whole]
  assert sum(map(math.isnan, values)) == 1
  assert cycle.ef_percent == pytest.approx(np.nanmean(values))
  assert 'beat_unmeasured' in cycle.flags


def test_beats_that_differ_are_flagged():
  phases = cosine(90, 3.0, start=0.25)
  alike = measured(beating(phases, es=(50, 12)), (1.0, 1.0), fps=30.0)
  assert alike.ef_sd < 1 and 'beats_differ' not in alike.flags
  phases[45:80] *= 0.45
  cycle = measured(beating(phases, es=(50, 12)), (1.0, 1.0), fps=30.0)
  assert cycle.ef_sd > 10 and 'beats_differ' in cycle.flags


def test_confidence_counts_at_ed_es_and_in_most_frames():
  masks = beating(cosine(40, 1.0))

  def flagged(confidence):
    return (
      'low_confidence' in measured(masks, (1.0, 1.0), 40.0, confidence=confidence, low=0.8).flags
    )

  assert not flagged(np.full(40, 0.9))
  few = np.full(40, 0.9)
  few[5:9] = 0.3
  assert not flagged(few)
  few[20] = 0.7  # ES.
  assert flagged(few)
  most = np.full(40, 0.7)
  most[[0, 19, 20, 21]] = 0.95
  assert flagged(most)


def test_filling_only_says_that_es_came_first():
  cycle = measured(beating(np.linspace(1, 0, 12)), (1.0, 1.0), 50.0)
  assert (cycle.ed, cycle.es) == (11, 0)
  assert set(cycle.flags) == {'no_full_cycle', 'es_before_ed'}


def test_jitter_does_not_move_es_far():
  masks = beating(cosine(40, 1.0))
  masks[5] = beating([1.0])[0]  # One wrong frame, as small as ES.
  cycle = measured(masks, (1.0, 1.0), fps=40.0)
  assert abs(cycle.es - 20) <= 2


def test_unknown_spacing_keeps_ef_only():
  masks = beating(cosine(40, 1.0))
  cycle = measured(masks, None, None)
  known = measured(masks, (1.0, 1.0), fps=40.0)
  assert math.isnan(cycle.edv_ml) and math.isnan(cycle.esv_ml)
  assert cycle.ef_method == 'area_length'
  assert cycle.ef_percent == pytest.approx(known.ef_percent, abs=3)
  assert set(cycle.flags) == {'spacing_unknown', 'fps_unknown'}


def test_empty_frames_are_bridged():
  masks = beating(cosine(40, 1.0))
  masks[18:23] = 0
  cycle = measured(masks, (1.0, 1.0), fps=40.0)
  assert 'empty_masks' in cycle.flags
  assert cycle.es in (17, 23) and cycle.esv_ml > 20


def test_no_cavity_at_all():
  cycle = measured(np.zeros((5, 40, 40), np.uint8), (1.0, 1.0), 40.0)
  assert cycle.ed is None and cycle.es is None and cycle.beats == ()
  assert math.isnan(cycle.ef_percent)
  assert cycle.flags == ('no_cavity',)


def test_doubtful_masks_are_flagged():
  masks = beating(cosine(20, 1.0))
  masks[4, 5:35, 5:35] = 1
  assert 'fragmented' in measured(masks, (1.0, 1.0), 40.0).flags
  tiny = measured(beating(cosine(20, 1.0)), (0.2, 0.2), 40.0).flags
  assert {'implausible_volume', 'implausible_length'} <= set(tiny)
  still = measured(beating(np.zeros(20)), (1.0, 1.0), 40.0)
  assert 'no_contraction' in still.flags and still.ed is not None
  box = (0, 80, 200, 200)
  cut = measured(beating(cosine(20, 1.0)), (1.0, 1.0), 40.0, box=box)
  assert 'cut_by_border' in cut.flags


@pytest.mark.parametrize('frames', [2, 3, 4])
def test_shortest_clips(frames):
  cycle = measured(beating(np.linspace(0, 1, frames)), (1.0, 1.0), 40.0)
  assert (cycle.ed, cycle.es) == (0, frames - 1)


def test_a_still_has_neither_phase_nor_fraction():
  one = measured(beating([0.0]), (1.0, 1.0), 40.0)
  many = measured(beating(np.zeros(9)), (1.0, 1.0), 40.0, flags=('still_image',))
  for cycle in (one, many):
    assert cycle.ed is None and cycle.es is None and cycle.beats == ()
    assert math.isnan(cycle.ef_percent) and math.isnan(cycle.edv_ml)
    assert cycle.area[0] == pytest.approx(math.pi / 2 * 80 * 25, rel=0.02)


@pytest.mark.parametrize('fault, flagged', [('', False), ('myo', True), ('la', True)])
@pytest.mark.parametrize('still', [False, True])
def test_classes_that_do_not_fit_together(fault, flagged, still):
  lv = beating([0.0] if still else cosine(20, 1.0)) == 1
  around = [np.roll(lv, shift, axis) for shift, axis in ((-6, 1), (-6, 2), (6, 2))]
  masks = np.select([lv, np.any(around, axis=0), np.roll(lv, 12, axis=1)], [1, 2, 3])
  masks = masks.astype(np.uint8)
  if fault:
    masks[masks == LABELS[fault]] = 0
  clip, found = raw_clip.RawClip(masks, (1.0, 1.0), 40.0), segmentation(masks)
  for classes in (('lv', 'myo', 'la'), ('la', 'lv', 'myo')):
    cycle = measurement.measure_clip(clip, dataclasses.replace(found, classes=classes))
    assert ('implausible_anatomy' in cycle.flags) == flagged
  assert 'implausible_anatomy' not in measurement.measure_clip(clip, found).flags


def test_every_flag_is_raised_somewhere():
  used = set()
  for module in (measurement, checks, dicom, outputs, raw_clip, readers, video, ejection, beats):
    tree = ast.parse(inspect.getsource(module))
    keys = {key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
    used |= {
      node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in keys
    }
  assert set(measurement.FLAGS) - used == set()


def test_a_dip_too_short_for_a_beat_is_none():
  # As of a real clip of one second: filling, a flicker, ED, half a systole.
  curve = np.interp(np.arange(30), [0, 6, 13, 17, 21, 29], [29.0, 26.0, 33.0, 28.0, 37.0, 28.0])
  found, flags = beats.find_beats(curve, fps=30.0)
  assert (13, 17) not in found and found[0][0] == 21
  assert flags == ['no_full_cycle']
  slow, flags = beats.find_beats(curve, fps=15.0)  # 112 beats a minute.
  assert slow[0] == (13, 17) and flags == []
