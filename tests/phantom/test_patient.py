"""Patients: exact volumes, determinism, shapes, anatomy and motion."""

import hashlib

import jax
import numpy as np
import pytest

from echoforge_jax.phantom import motion, patient, raster
from echoforge_jax.phantom.config import PhantomConfig

# Rendering a patient takes longer than compiling for it.
pytestmark = [pytest.mark.slow, pytest.mark.optimized]

COHORT = 22
SEED = 31


def disc_volume(mask4, mask2, mm, discs=20):
  """Biplane volume in ml straight from two label images.

  The axis runs from the middle of the contact of cavity and atrium to the
  farthest cavity pixel; a disc's diameter is its area over its height.
  """
  profiles = []
  for mask in (mask4, mask2):
    lv, la = mask == 1, mask == 3
    near = np.zeros_like(la)
    for dy in range(-3, 4):
      for dx in range(-3, 4):
        near |= np.roll(la, (dy, dx), (0, 1))
    base = np.argwhere(lv & near).mean(0)
    points = np.argwhere(lv).astype(float)
    apex = points[np.linalg.norm(points - base, axis=1).argmax()]
    length = np.linalg.norm(base - apex)
    along = (points - apex) @ (base - apex) / length
    disc = np.floor(along / length * discs).astype(int)
    disc = disc[(disc >= 0) & (disc < discs)]
    areas = np.bincount(disc, minlength=discs) * mm * mm
    profiles.append((areas / (length * mm / discs), length * mm))
  (d4, length4), (d2, length2) = profiles
  length = max(length4, length2)
  return np.pi / 4.0 * (d4 * d2).sum() * length / discs / 1000.0


@pytest.fixture(scope='module')
def cohort():
  """Masks of many patients, without the images: volumes need no speckle."""
  out = []
  for index in range(1, COHORT + 1):
    out.append(patient.generate_patient(SEED, index, images=False))
  return out


@pytest.fixture(scope='module')
def one():
  return patient.generate_patient(SEED, 3)


def test_biplane_volume_of_native_masks_is_the_prescribed_one(cohort):
  errors = []
  for p in cohort:
    four, two = p.clips['4CH'], p.clips['2CH']
    for k4, k2, truth in ((four.ed, two.ed, p.edv_ml), (four.es, two.es, p.esv_ml)):
      found = disc_volume(four.masks[k4], two.masks[k2], raster.SPACING)
      errors.append(found / truth - 1.0)
  assert np.abs(errors).max() < 0.02, errors


def _true_volumes(index, shares):
  """Disc-integrated volumes in ml of the contours themselves."""
  key = jax.random.fold_in(jax.random.key(SEED), index)
  heart, _ = patient._sample(jax.random.split(key, 3)[0], PhantomConfig.camus())

  @jax.jit
  def volume(g):
    state = motion.beat_state(heart, g)
    return motion.biplane_volume(heart, state['widths'], state['length'])

  return np.array([float(volume(g)) for g in shares])


def test_contours_hold_the_prescribed_volume_throughout(cohort):
  for index in (1, 2, 5, 9):
    p = cohort[index - 1]
    shares = np.array([0.0, 0.3, 0.7, 1.0])
    found = _true_volumes(index, shares)
    wanted = p.edv_ml + (p.esv_ml - p.edv_ml) * shares
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_groups_keep_their_ranges(cohort):
  groups = {g.name: g for g in PhantomConfig.camus().groups}
  assert len({p.group for p in cohort}) >= 3
  for p in cohort:
    group = groups[p.group]
    assert group.edv_ml[0] - 0.1 <= p.edv_ml <= group.edv_ml[1] + 0.1
    low, high = group.ef_percent
    assert low - 0.1 <= p.ef_percent <= high + 0.1
    assert p.ef_percent == pytest.approx(100.0 * (p.edv_ml - p.esv_ml) / p.edv_ml)


def test_native_sizes_sector_and_labels(cohort):
  for p in cohort:
    for clip in p.clips.values():
      frames, height, width = clip.masks.shape
      assert 10 <= frames <= 30
      assert 292 <= height <= 616 and 354 <= width <= 790
      assert clip.ed == 0 and clip.es == frames - 1 and clip.labeled.all()
      assert set(np.unique(clip.masks)) == {0, 1, 2, 3}
      y, x = np.mgrid[:height, :width]
      outside = np.hypot(x + 0.5 - width / 2.0, y + 0.5) > height + 1
      assert not clip.masks[:, outside].any()


def test_myocardium_encloses_the_cavity_and_the_atrium_touches_it(cohort):
  for p in cohort:
    for clip in p.clips.values():
      for k in (clip.ed, clip.es):
        mask = np.pad(clip.masks[k], 1)
        lv = mask == 1
        ring = np.zeros_like(lv)
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
          ring |= np.roll(lv, shift, axis)
        around = mask[ring & ~lv]
        assert (around == 3).sum() > 20
        # All but the mitral plane and what the sector cuts off is muscle.
        assert (around == 2).mean() > 0.6
        above = np.nonzero(mask == 2)[0].min()
        assert above < np.nonzero(lv)[0].min()


def test_motion_is_monotonic_from_ed_to_es(cohort):
  for p in cohort:
    for clip in p.clips.values():
      lv = (clip.masks == 1).sum((1, 2)).astype(float)
      assert (np.diff(lv) <= 0.004 * lv[0]).all()
      apex = [np.nonzero(m == 1)[0].min() for m in clip.masks]
      base = [np.nonzero(m == 1)[0].max() for m in clip.masks]
      assert base[-1] < base[0]  # the base comes down to the apex
      # which takes at most .35 of the shortening, the base the rest
      most = 2.5 / raster.SPACING + 0.35 / 0.65 * (base[0] - base[-1])
      assert np.ptp(apex) < most
      muscle = (clip.masks == 2).sum((1, 2)).astype(float)
      assert 0.6 < muscle[-1] / muscle[0] < 1.5


def test_images_are_ultrasound_like(one):
  for clip in one.clips.values():
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (clip.masks.shape)
    height, width = clip.frames.shape[1:]
    y, x = np.mgrid[:height, :width]
    outside = np.hypot(x + 0.5 - width / 2.0, y + 0.5) > height + 1
    assert not clip.frames[:, outside].any()
    assert clip.frames.max() > 180
    for frame, mask in zip(clip.frames, clip.masks):
      assert frame[mask == 1].mean() < frame[mask == 2].mean()
      assert frame[mask == 1].std() > 8.0


def test_masks_alone_equal_those_of_the_full_patient(cohort, one):
  for view, clip in one.clips.items():
    np.testing.assert_array_equal(clip.masks, cohort[2].clips[view].masks)


def test_same_seed_and_index_give_the_same_bytes(one):
  again = patient.generate_patient(SEED, 3)
  other = patient.generate_patient(SEED + 1, 3)

  def digest(p):
    return [
      hashlib.sha256(c.frames.tobytes() + c.masks.tobytes()).hexdigest() for c in p.clips.values()
    ]

  assert digest(again) == digest(one)
  assert digest(other) != digest(one)


def test_whole_beats_return_to_their_beginning():
  p = patient.generate_patient(SEED, 3, beats=1, images=False)
  for clip in p.clips.values():
    area = (clip.masks == 1).sum((1, 2))
    assert clip.ed == 0 and area.argmin() == pytest.approx(clip.es, abs=1)
    assert area[-1] == pytest.approx(area[0], rel=0.03)
    assert len(area) > clip.es + 3


def test_volume_curve_is_physiological():
  phase = np.linspace(0.0, 1.0, 201)
  share = np.array(motion.ejected(phase, 0.35))
  assert share[0] == 0.0 and share.max() == pytest.approx(1.0)
  assert (np.diff(share[:70]) >= -1e-6).all()  # ejection
  assert (np.diff(share[71:]) <= 1e-6).all()  # filling
  early = share[85] - share[130]
  assert early > 0.5  # most of the filling is early
  opening = np.array(motion.mitral_opening(phase, 0.35))
  assert opening[:70].max() == 0.0 and opening.max() > 0.9


def test_fill_counts_pixel_centres():
  polygon = np.array([[1.5, 0.5], [6.5, 0.5], [6.5, 4.5], [1.5, 4.5]])
  mask = raster.fill(polygon, 8, 9)
  wanted = np.zeros((8, 9), bool)
  wanted[1:5, 2:7] = True
  np.testing.assert_array_equal(mask, wanted)
  angle = np.linspace(0.0, 2.0 * np.pi, 200, endpoint=False)
  circle = np.stack([30.3 + 20.0 * np.cos(angle), 29.6 + 20.0 * np.sin(angle)], 1)
  area = raster.fill(circle, 60, 60).sum()
  assert area == pytest.approx(np.pi * 400.0, rel=0.006)


def test_unknown_preset_lists_the_choices():
  with pytest.raises(ValueError, match='camus, randomized'):
    PhantomConfig.named('clean')
