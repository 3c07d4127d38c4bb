"""run_exported.py MODEL CLIP.npy OUT.npy: jax, numpy and an exported model."""

import json
import sys
import zipfile

import jax
import jax.export
import numpy as np

model, clip, out = sys.argv[1:4]
with zipfile.ZipFile(model) as bundle:
  about = json.loads(bundle.read('manifest.json'))
  program = bytearray(bundle.read('step_float32.jaxexp'))
step = jax.jit(jax.export.deserialize(program).call)

video = np.load(clip)  # uint8 [T, H, W], cropped to the ultrasound sector.
count, size = len(video), about['image_size']
small = jax.image.resize(video.astype(np.float32), (count, size, size), 'linear')
frames = list(np.rint(small).clip(0, 255).astype(np.uint8))
memory = [np.zeros(m['shape'], m['dtype']) for m in about['memory']]
logits = []
for frame in frames + frames[-1:] * about['delay']:
  scores, *memory = step(frame, *memory)
  logits.append(np.asarray(scores))
logits = np.stack(logits[about['delay'] :])
native = np.asarray(
  jax.image.resize(logits, (*video.shape, logits.shape[-1]), 'linear', antialias=False)
)
labels = np.asarray([c['label'] for c in about['classes']], np.uint8)
np.save(out, np.where(native.max(-1) > 0, labels[native.argmax(-1)], 0))
