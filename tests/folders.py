"""Tiny datasets of people's own in the three layouts of `--dataset=folder`."""

import json

import numpy as np
from PIL import Image
import SimpleITK as sitk

from echoforge_jax.formats.video import encode_mjpg

SHAPE = (40, 36)


def disk(radius, shape=SHAPE):
  """Returns a mask with a cavity of a radius in a wall of three pixels, uint8."""
  rows, cols = np.mgrid[: shape[0], : shape[1]]
  distance = np.hypot(rows - shape[0] / 2, cols - shape[1] / 2)
  wall = (distance >= radius) & (distance < radius + 3)
  return ((distance < radius) + 2 * wall).astype(np.uint8)


def picture(mask, seed):
  """Returns an image of a mask, uint8: speckle, dark in the cavity."""
  speckle = np.random.default_rng(seed).integers(60, 200, mask.shape)
  return np.where(mask == 1, speckle // 4, speckle).astype(np.uint8)


def beat(count=6, shape=SHAPE, seed=0):
  """Returns (frames, masks), uint8 [T, H, W], ED first, ES last."""
  masks = np.stack([disk(10 - 4 * t / (count - 1), shape) for t in range(count)])
  return np.stack([picture(mask, (seed, t)) for t, mask in enumerate(masks)]), masks


def write_png(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def write_nifti(path, array, spacing_mm=0.4):
  """Writes [T, H, W] or [H, W] with a spacing of mm per pixel."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = sitk.GetImageFromArray(array)
  image.SetSpacing([spacing_mm] * 2 + [1.0] * (array.ndim - 2))
  sitk.WriteImage(image, str(path))


def write_avi(path, frames):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(encode_mjpg(frames, 30))


def write_stills(root, name, seed, shape=SHAPE):
  """Writes ED and ES of one case as PNG."""
  for phase, radius in (('ED', 10), ('ES', 7)):
    mask = disk(radius, shape)
    write_png(root / 'images' / f'{name}_{phase}.png', picture(mask, (seed, radius)))
    write_png(root / 'masks' / f'{name}_{phase}.png', mask)


def write_plain(root):
  """Writes five patients: stills, a single still, a video with two masks, NIfTI, NPZ."""
  write_stills(root, 'p1_4CH', 1)
  write_stills(root, 'p1_2CH', 2, (50, 30))
  single = disk(9)
  write_png(root / 'images' / 'p2.png', picture(single, 3))
  write_png(root / 'masks' / 'p2.png', single)
  frames, masks = beat(seed=4)
  write_avi(root / 'images' / 'p3_A4C.avi', frames)
  for number in (0, 5):
    write_png(root / 'masks' / f'p3_A4C_frame{number:02d}.png', masks[number])
  frames, masks = beat(seed=5)
  write_nifti(root / 'images' / 'p4.nii.gz', frames)
  write_nifti(root / 'masks' / 'p4.nii.gz', masks)
  frames, masks = beat(8, seed=6)
  np.savez(root / 'images' / 'p5.npz', frames=frames, fps=40, spacing_mm=[0.3, 0.2])
  np.savez(root / 'masks' / 'p5.npz', masks=masks[[1, 7]], frames=[1, 7])
  return root


CSV = """\
case,patient,view,split,ed,es,spacing_mm,fps,ef
p1_4CH,anna,4CH,train,,,0.3,,55
p1_2CH,anna,A2C,train,,,0.3x0.2,,55
p2,ben,PLAX,train,,,,,
p3_A4C,carl,,train,0,5,,48,
p4,dora,4CH,validation,,,,,61.5
p5,emil,PSAX,test,1,7,,,
"""


def write_nnunet(root, patients=4, ending='.nii.gz'):
  """Writes an nnU-Net dataset: ED and ES of each patient, the last in imagesTs."""
  for n in range(patients):
    where = 'Ts' if n == patients - 1 else 'Tr'
    for phase, radius in (('ED', 10), ('ES', 7)):
      mask = disk(radius)
      name = f'patient{n:04d}_4CH_{phase}'
      write_nifti(root / f'images{where}' / f'{name}_0000{ending}', picture(mask, (n, radius)))
      write_nifti(root / f'labels{where}' / f'{name}{ending}', mask)
  described = {
    'channel_names': {'0': 'US'},
    'labels': {'background': 0, 'LV cavity': 1, 'myocardium': 2},
    'numTraining': 2 * patients - 2,
    'file_ending': ending,
  }
  (root / 'dataset.json').write_text(json.dumps(described))
  return root


def write_nnunet_folds(root, *held_out):
  """Writes splits_final.json: the numbers of the patients that each fold holds out, both phases."""

  def cases(numbers):
    return [f'patient{n:04d}_4CH_{phase}' for n in numbers for phase in ('ED', 'ES')]

  every = {n for numbers in held_out for n in numbers}
  folds = [{'train': cases(every - {*own}), 'val': cases(own)} for own in held_out]
  (root / 'splits_final.json').write_text(json.dumps(folds))
  return folds


def write_pediatric(root, clips=3):
  """Writes EchoNet-Pediatric: `clips` of each view, in as many folds."""
  for view in ('A4C', 'PSAX'):
    files, points = ['FileName,EF,Sex,Age,Weight,Height,Split'], ['FileName,X,Y,Frame']
    for n in range(clips):
      name = f'{view}-{n}.avi'
      frames, _ = beat(12, (112, 112), seed=10 * n + len(view))
      write_avi(root / view / 'Videos' / name, frames)
      files.append(f'{name},{60 + n}.5,F,{n + 2},20,110,{n}')
      for frame, radius in ((1, 24), (10, 12)):
        for angle in np.linspace(0, 2 * np.pi, 20, endpoint=False):
          x, y = 56 + radius * np.cos(angle), 56 + radius * np.sin(angle)
          points.append(f'{name},{x:.2f},{y:.2f},{frame}')
    (root / view / 'FileList.csv').write_text('\n'.join(files) + '\n')
    (root / view / 'VolumeTracings.csv').write_text('\n'.join(points) + '\n')
  return root
