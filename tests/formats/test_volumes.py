"""Volumes read and written by several threads."""

import concurrent.futures

import numpy as np
import pytest

from echoforge_jax.formats import volumes


@pytest.fixture
def volume(tmp_path):
  path = tmp_path / 'clip.nii.gz'
  array = np.arange(3 * 20 * 16, dtype=np.int64).reshape(3, 20, 16).astype(np.uint8)
  volumes.write_volume(path, array, (0.5, 0.25, 1.0))
  return path, array


def test_round_trip(volume):
  path, array = volume
  read = volumes.read_volume(path)
  np.testing.assert_array_equal(read.array, array)
  np.testing.assert_allclose(read.spacing_mm, [0.25, 0.5])


@pytest.mark.parametrize('write', [False, True])
def test_two_threads_are_never_in_itk_at_once(volume, write):
  path, array = volume
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    with volumes.ITK_LOCK:
      if write:
        work = pool.submit(volumes.write_volume, path, array, (1.0, 1.0, 1.0))
      else:
        work = pool.submit(volumes.read_volume, path)
      with pytest.raises(concurrent.futures.TimeoutError):
        work.result(0.3)
    work.result(10)


def test_a_damaged_file_gives_the_lock_back(tmp_path, volume):
  path, array = volume
  (tmp_path / 'bad.nrrd').write_bytes(b'NRRD0004\n')
  with pytest.raises(ValueError, match='cannot be read as a medical image'):
    volumes.read_volume(tmp_path / 'bad.nrrd')
  np.testing.assert_array_equal(volumes.read_volume(path).array, array)
