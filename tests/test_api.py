"""What `import echoforge_jax` gives, and that it costs nothing."""

import subprocess
import sys

import pytest

import echoforge_jax
from echoforge_jax import clip, inference, models
from echoforge_jax.inference import batch

IMPORT = """
import sys, time
start = time.process_time()
import echoforge_jax
print(time.process_time() - start)
print(*sorted({'jax', 'flax', 'numpy', 'cv2'} & sys.modules.keys()))
print(*dir(echoforge_jax))
"""


def test_the_import_is_quick_and_leaves_jax_alone():
  done = subprocess.run([sys.executable, '-c', IMPORT], capture_output=True, text=True, check=True)
  seconds, loaded, names = done.stdout.splitlines()
  assert float(seconds) < 0.1
  assert loaded == ''
  assert set(echoforge_jax.__all__) <= set(names.split())


def test_names():
  assert echoforge_jax.Clip is clip.Clip
  assert echoforge_jax.Segmenter is inference.Segmenter
  assert echoforge_jax.load is inference.load
  assert echoforge_jax.build_model is models.build_model
  assert echoforge_jax.segment_file is batch.segment_file
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    echoforge_jax.nothing  # noqa: B018
