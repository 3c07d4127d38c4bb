import pickle
import re
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from echoforge_jax.errors import InputError
from echoforge_jax.models import weight_files

ARRAYS = {
  'conv1.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'bn1.bias': np.ones(2, np.float32),
}


def test_safetensors_and_npz(tmp_path):
  save_file(ARRAYS, tmp_path / 'a.safetensors')
  np.savez(tmp_path / 'a.npz', **ARRAYS)
  for name in ('a.safetensors', 'a.npz'):
    assert weight_files.is_weight_file(tmp_path / name)
    found = weight_files.read_weights(tmp_path / name)
    assert set(found) == set(ARRAYS)
    for key, value in ARRAYS.items():
      np.testing.assert_array_equal(found[key], value)
  assert not weight_files.is_weight_file(tmp_path)


class Trap:
  """Runs code where a pickle is loaded."""

  def __reduce__(self):
    return (exec, ('raise SystemExit("the pickle ran")',))


@pytest.mark.parametrize('suffix', weight_files.SUFFIXES)
def test_pickles_never_run(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(pickle.dumps(Trap()))
  with pytest.raises(InputError, match=re.escape(str(path))):
    weight_files.read_weights(path)


def test_npz_of_objects(tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.array([Trap()], object))
  with pytest.raises(InputError, match='never loaded'):
    weight_files.read_weights(tmp_path / 'a.npz')


def test_without_torch_the_message_tells_how_to_convert(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  path = tmp_path / 'a.pth'
  path.write_bytes(b'')
  with pytest.raises(InputError) as error:
    weight_files.read_weights(path)
  text = str(error.value)
  assert 'torch is not installed' in text and 'weights_only=True' in text
  assert text.endswith(f'{path} {path.with_suffix(".npz")}')


def test_pth_with_torch(tmp_path):
  torch = pytest.importorskip('torch')
  state = {name: torch.from_numpy(value) for name, value in ARRAYS.items()}
  for number, saved in enumerate((state, {'state_dict': state, 'epoch': 3})):
    path = tmp_path / f'{number}.pth'
    torch.save(saved, path)
    found = weight_files.read_weights(path)
    for key, value in ARRAYS.items():
      np.testing.assert_array_equal(found[key], value)


def test_files_that_are_not_there_or_unknown(tmp_path):
  with pytest.raises(InputError, match='no such file'):
    weight_files.read_weights(tmp_path / 'a.npz')
  with pytest.raises(InputError, match="'.h5', wanted one of .safetensors"):
    weight_files.read_weights(tmp_path / 'a.h5')
