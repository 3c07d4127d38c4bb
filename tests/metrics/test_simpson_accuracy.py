"""Simpson's volumes against solids whose volume is known.

On fine masks 1e-3 is reached; what a coarser grid costs is held by the
tolerances in `test_ejection`. Twenty discs at mid-height overestimate a whole
ellipsoid by 1 / (2 * 20^2): that is the method, and is expected here.
"""

import math

import numpy as np
import pytest

from echoforge_jax.metrics import ejection
from echoforge_jax.phantom import patient
from tests.ventricles import ventricle, ventricle_volume

# Rendering a patient takes longer than compiling for it.


@pytest.mark.slow
@pytest.mark.parametrize('size', [1024, 2048])
@pytest.mark.parametrize('tilt', [0.0, 8.0, -15.0])
def test_biplane_of_truncated_ellipsoids_to_one_in_a_thousand(size, tilt):
  spacing = (140 / size, 155 / size)
  views = [
    ejection.measure_cavity(
      ventricle(size, spacing, radius=r, tilt=tilt, shift=(0.3, 0.6)), spacing
    )
    for r in (23.0, 25.0)
  ]
  assert ejection.biplane_volume(*views) == pytest.approx(ventricle_volume(23.0, 25.0), rel=1e-3)


@pytest.mark.parametrize('size', [1024, 2048])
def test_discs_of_a_whole_ellipsoid_to_one_in_a_thousand(size):
  spacing = (136 / size, 170 / size)
  cavity = ejection.measure_cavity(
    ventricle(size, spacing, radius=21.0, above=44.0, below=44.0, apex=20.0), spacing
  )
  exact = 4 / 3 * math.pi * 44 * 21**2 / 1000
  assert ejection.single_plane_volume(cavity) == pytest.approx(
    exact * (1 + 1 / (2 * ejection.DISCS**2)), rel=1e-3
  )


@pytest.mark.slow
def test_volumes_of_phantom_masks_are_the_prescribed_ones():
  """Twelve patients at native resolution, both instants."""
  volumes, fractions = [], []
  for index in range(1, 13):
    found = patient.generate_patient(0, index, images=False)

    def ends(name, found=found):
      return {
        view: ejection.measure_cavity(clip.masks[getattr(clip, name)] == 1, tuple(clip.spacing_mm))
        for view, clip in found.clips.items()
      }

    measured = ejection.measure_ejection(ends('ed'), ends('es'))
    volumes += [measured.edv_ml / found.edv_ml - 1, measured.esv_ml / found.esv_ml - 1]
    fractions.append(measured.ef_percent - found.ef_percent)
  assert np.abs(volumes).max() < 0.02 and abs(np.mean(volumes)) < 0.01
  assert np.abs(fractions).max() < 0.6 and abs(np.mean(fractions)) < 0.3
