"""Label maps of every format come in alike; what is no label map is refused."""

import numpy as np
from PIL import Image
import pytest
import SimpleITK as sitk

from echoforge_jax.errors import InputError
from echoforge_jax.formats.masks import read_masks, suffix_of


def labels(frames=3):
  return np.random.default_rng(0).integers(0, 4, (frames, 20, 24), dtype=np.uint8)


def write_volume(path, array):
  sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def palette_image(array):
  image = Image.fromarray(array, 'L').convert('P')
  image.putpalette([k % 256 for k in range(7, 775)])
  image.frombytes(array.tobytes())
  return image


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize('name', ['a.nii.gz', 'a.nii', 'a.mha'])
def test_volumes(tmp_path, name, dtype):
  write_volume(tmp_path / name, labels().astype(dtype))
  found = read_masks(tmp_path / name)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, labels())
  assert suffix_of(name.upper()) == name[1:]


def test_an_image_is_one_frame(tmp_path):
  frame = labels(1)[0]
  write_volume(tmp_path / 'a.nii.gz', frame)
  Image.fromarray(frame).save(tmp_path / 'gray.png')
  palette_image(frame).save(tmp_path / 'palette.png')
  Image.fromarray(np.repeat(frame[..., None], 3, -1)).save(tmp_path / 'color.png')
  Image.fromarray(frame.astype(np.uint16)).save(tmp_path / 'deep.png')
  Image.fromarray(frame > 1).save(tmp_path / 'bits.png')
  np.save(tmp_path / 'a.npy', frame.astype(np.int64))
  for name in ('a.nii.gz', 'gray.png', 'palette.png', 'color.png', 'deep.png', 'a.npy'):
    np.testing.assert_array_equal(read_masks(tmp_path / name), frame[None], err_msg=name)
  np.testing.assert_array_equal(read_masks(tmp_path / 'bits.png'), frame[None] > 1)


def test_npz(tmp_path):
  np.savez(tmp_path / 'named.npz', masks=labels(), other=np.zeros(3))
  np.savez_compressed(tmp_path / 'only.npz', labels() == 1)
  np.testing.assert_array_equal(read_masks(tmp_path / 'named.npz'), labels())
  np.testing.assert_array_equal(read_masks(tmp_path / 'only.npz'), labels() == 1)


def spoil(folder, kind):
  """Writes a file that is no label map; returns its path."""
  path = folder / {'color': 'a.png', 'cut': 'a.nii.gz', 'text': 'a.png'}.get(kind, 'a.npz')
  array = labels()
  if kind == 'color':
    Image.fromarray(np.stack([array[0], array[1], array[2]], -1)).save(path)
  elif kind == 'cut':
    write_volume(path, array)
    path.write_bytes(path.read_bytes()[:-40])
  elif kind == 'text':
    path.write_text('no image')
  elif kind == 'probabilities':
    np.savez(path, array / 7)
  elif kind == 'two arrays':
    np.savez(path, first=array, second=array)
  elif kind == 'four axes':
    np.savez(path, array[None])
  elif kind == 'objects':
    np.savez(path, np.array([[{}, {}], [{}, {}]], object))
  elif kind == 'texts':
    np.savez(path, np.full((20, 24), 'lv'))
  return path


@pytest.mark.parametrize(
  'kind,said',
  [
    ('color', 'one label value per pixel'),
    ('cut', 'whole file'),
    ('text', 'export it again'),
    ('probabilities', 'whole numbers in 0..255'),
    ('two arrays', 'wanted one named "masks"'),
    ('four axes', r'\[T, H, W\]'),
    ('objects', 'never loaded'),
    ('texts', 'save them as uint8'),
  ],
)
def test_what_is_no_label_map_is_one_clear_line(tmp_path, kind, said):
  path = spoil(tmp_path, kind)
  with pytest.raises(InputError, match=said) as error:
    read_masks(path)
  assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_another_kind_of_file(tmp_path):
  with pytest.raises(InputError, match=r'another kind of file; wanted masks as .*\.png'):
    read_masks(tmp_path / 'a.jpg')
