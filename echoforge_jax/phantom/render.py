"""From anatomy to gray levels in beam space: the frame-by-frame core.

Every patient is rendered on a beam grid of the same number of samples, whatever the depth, so that
one compilation serves all. Scan conversion to the native size happens afterwards.
"""

import jax
import jax.numpy as jnp

from echoforge_jax.phantom import scene, speckle

# Beam grid of patients at native size: samples in depth, lines.
GRID = (600, 160)


def beam_points(place, grid):
  """Returns r [rows, 1] mm, theta [1, lines] rad, X and Y [rows, lines] mm."""
  rows, lines = grid
  r = ((jnp.arange(rows) + 0.5) / rows * place['depth'])[:, None]
  theta = (((jnp.arange(lines) + 0.5) / lines * 2.0 - 1.0) * place['half'])[None]
  return r, theta, r * jnp.sin(theta), r * jnp.cos(theta)


def _gain_and_haze(place, grid, slow):
  """Returns maps in dB [rows, lines]: gain with shadows and arcs, and haze."""
  r, theta, _, _ = beam_points(place, grid)
  rel, side = r / place['depth'], theta / place['half']
  gain = place['tgc_error'] * (rel - 0.5) - place['edge_db'] * jnp.abs(side) ** place['edge_power']
  gain = gain + 2.0 * place['gain_bow'] * (rel - 0.5) ** 2 + place['gain_side'] * side
  far = (rel - place['far_band_at']) / place['far_band_width']
  gain = gain + place['far_band_db'] * jnp.exp(-(far**2)) * (1.0 + 0.5 * slow)
  for i in range(place['shadow_db'].shape[0]):
    wedge = jnp.exp(
      -(((theta - place['shadow_theta'][i] * place['half']) / place['shadow_width'][i]) ** 2)
    )
    gain = gain - place['shadow_db'][i] * wedge * jax.nn.sigmoid(
      (r - place['shadow_start'][i]) / 6.0
    )
  for i in range(place['band_db'].shape[0]):
    band = (rel - place['band_at'][i]) / place['band_width'][i]
    gain = gain + place['band_db'][i] * jnp.exp(-(band**2))
  gain = gain + place['step_db'] * jax.nn.sigmoid((rel - place['step_at']) / 0.02)
  near = jnp.exp(-r / place['near_field_depth'])
  arcs = place['arc_db'] * jnp.cos(2.0 * jnp.pi * r / place['arc_period']) * jnp.exp(-r / 12.0)
  haze = (
    place['haze_db']
    - place['haze_fall'] * (rel - 0.4)
    + place['haze_side_db'] * (jnp.exp(-(((side - place['haze_side']) / 0.4) ** 2)) - 0.4)
    + place['haze_patches_db'] * slow
    - 30.0 * (rel / place['haze_reach']) ** 2
  )
  fan = (theta - place['fan_at'] * place['half']) / place['fan_width']
  haze = jnp.maximum(haze, place['fan_db'] - 6.0 * fan**2 - 4.0 * rel)
  haze = haze + near * (place['near_field_db'] - place['haze_db'])
  above = jnp.minimum(place['apex_haze_fall'] * (place['apex_y'] - r), 4.0)
  # A deep apex is a hazy one (measured).
  level = place['apex_haze_db'] + 0.25 * (place['apex_y'] - 29.0)
  haze = jnp.maximum(haze, level + above)
  for i in range(place['far_arc_db'].shape[0]):  # Reverberations: at one range, across the cavity.
    at, wide, lateral, reach = (place['far_arc'][i, k] for k in range(4))
    off = (r - (0.2 + 0.6 * at) * place['depth']) / (1.0 + 2.0 * wide)
    across = (side - 1.6 * lateral + 0.8) / (0.1 + 0.4 * reach)
    haze = jnp.maximum(haze, place['far_arc_db'][i] - 6.0 * off**2 - 3.0 * across**4)
  return gain + arcs, haze + gain + arcs


def _mixed(first, second, share):
  """Returns two fields of unit variance mixed to one of unit variance."""
  return jnp.sqrt(share) * first + jnp.sqrt(1.0 - share) * second


def start_clip(key, place, grid, pool) -> dict:
  """Returns all that stays, or starts, with a clip; `grid` (rows, lines) is static.

  Point-spread matrices, `gain` and `haze` maps in dB, `grain` [rows, lines], and the random
  textures that age with time. `pool`: float32 [n] of `speckle.noise_pool`.
  """
  rows, lines = grid
  signal = (rows, lines, 2)
  noises = speckle.take_noise(
    key,
    pool,
    [(9, 7), (rows // 14, lines // 8), (rows // 45, lines // 16), *[signal] * 3, (14, 11)],
  )
  slow, fine, coarse = (speckle.slow_field(n, grid) for n in noises[:3])
  half = jnp.sqrt(0.5)  # complex numbers of unit variance
  mm = place['depth'] / rows
  line = 2.0 * place['half'] / lines
  r, _, _, _ = beam_points(place, grid)
  gain, haze = _gain_and_haze(place, grid, slow)
  # The TGC lifts the electronic noise with depth.
  noise = place['noise_db'] - place['loss'] * (place['depth'] - r)
  return {
    'axial': speckle.smoother(rows, place['axial_fwhm'] / mm, True),
    'lateral': speckle.smoother(lines, place['lateral_fwhm'] / line, True),
    'post_axial': speckle.smoother(rows, place['post_axial'] / mm, False),
    'post_lateral': speckle.smoother(lines, place['post_lateral'] / line, False),
    'gain': gain,
    'haze': 10.0 ** (haze / 20.0),
    'noise': 10.0 ** (noise / 20.0),
    'grain': 0.75 * fine + 0.66 * coarse,
    'patches': _mixed(slow, speckle.slow_field(noises[6], grid), place['patch_size']),
    'tissue_noise': half * noises[3],
    'haze_noise': half * noises[4],
    'blood_noise': half * noises[5],
    'shown': jnp.full(grid, -1.0, jnp.float32),
  }


def _point_spread(clip, signal):
  """Separable point spread over complex data [rows, lines, 2]."""
  rows, lines, _ = signal.shape
  out = (clip['axial'] @ signal.reshape(rows, -1)).reshape(rows, lines, 2)
  return jnp.einsum('rlc,kl->rkc', out, clip['lateral'])


def _kept_power(place, grid, phase, at, axis):
  """Returns the share [rows, lines] of the tissue's power that interpolation keeps along an axis.

  Bilinear interpolation correlates neighboring samples of white scatterers; where tissue is
  strained, the carrier's phase differs between them, and the point spread cancels their sum.
  Without this correction the muscle darkens in systole, where real muscle does not.

  `phase`: of the carrier, rad; `at`: the material point's index along `axis` (0 depth, 1 lines).
  """
  width = place['axial_fwhm'] if axis == 0 else place['lateral_fwhm']
  cell = place['depth'] / grid[0] if axis == 0 else 2.0 * place['half'] / grid[1]
  sigma = width / cell / 2.3548
  step, turn = jnp.gradient(at, axis=axis), jnp.gradient(phase, axis=axis)
  kept = 2.0 / 3.0
  for lag in (1, 2, 3):
    # Autocorrelation of the interpolation kernel, a cubic B-spline.
    d = jnp.clip(jnp.abs(lag * step), 0.0, 2.0)
    shared = jnp.where(d < 1.0, 2.0 / 3.0 - d * d + 0.5 * d**3, (2.0 - d) ** 3 / 6.0)
    spread = jnp.exp(-(lag**2) / (4.0 * sigma**2))
    kept = kept + 2.0 * spread * shared * jnp.cos(lag * turn)
  own = jnp.arange(grid[axis], dtype=jnp.float32)
  moved = jnp.clip(jnp.abs(at - (own[:, None] if axis == 0 else own[None])), 0.0, 1.0)
  return 1.0 + (jnp.maximum(kept, 0.05) - 1.0) * moved


def next_frame(key, place, frame, clip, grid, pool, seconds):
  """Renders one frame, `seconds` after the one before, and ages the random textures.

  `place` is of `anatomy.sample_view`, `frame` of `scene.frame_state`, `clip` of `start_clip` or as
  this function returned it; `grid` and `pool` as in `start_clip`. Returns gray levels float32
  [rows, lines] in [0, 1] before scan conversion, and the clip with the textures of this frame.
  """
  rows, lines = grid
  fresh = [n * jnp.sqrt(0.5) for n in speckle.take_noise(key, pool, [(rows, lines, 2)] * 4)]
  tissue = speckle.age(clip['tissue_noise'], fresh[0], seconds, place['tissue_time'])
  haze = speckle.age(clip['haze_noise'], fresh[1], seconds, place['haze_time'])
  blood = speckle.age(clip['blood_noise'], fresh[2], seconds, place['blood_time'])

  r, _, x, y = beam_points(place, grid)
  spot = scene.locate(place, frame, x, y)
  x0, y0 = scene.material_point(place, frame, spot)
  r0 = jnp.sqrt(x0 * x0 + y0 * y0)
  theta0 = jnp.arctan2(x0, y0)
  row = r0 / place['depth'] * rows - 0.5
  column = (theta0 / place['half'] + 1.0) * (0.5 * lines) - 0.5
  texture = jnp.concatenate([tissue, clip['grain'][..., None]], -1)
  seen = speckle.lookup(texture, row, column)
  level, share = scene.echo(place, frame, spot, seen[..., 2], clip['patches'])
  # The carrier turns by 4 pi / lambda for each mm the scatterer has moved.
  phase = (4.0 * jnp.pi / place['wavelength']) * (r - r0)
  c, s = jnp.cos(phase), jnp.sin(phase)
  turned = jnp.stack([seen[..., 0] * c - seen[..., 1] * s, seen[..., 0] * s + seen[..., 1] * c], -1)
  lost = _kept_power(place, grid, phase, row, 0) * _kept_power(place, grid, phase, column, 1)
  amplitude = 10.0 ** ((level + clip['gain']) / 20.0) / jnp.sqrt(lost)
  flow = share * 10.0 ** ((place['blood_db'] + clip['gain']) / 20.0)
  signal = _point_spread(
    clip, turned * amplitude[..., None] + blood * flow[..., None] + haze * clip['haze'][..., None]
  )
  signal = signal + fresh[3] * clip['noise'][..., None]
  power = (signal**2).sum(-1) + 1e-8
  db = 4.342945 * jnp.log(power) + 2.51
  db = clip['post_axial'] @ db @ clip['post_lateral'].T
  zero = (place['gray'] / 255.0) ** (1.0 / place['gamma'])
  gray = jnp.clip(zero + db / place['dynamic_range'], 0.0, 1.0) ** place['gamma']
  keep = jnp.where(clip['shown'][0, 0] < 0, 0.0, place['persistence'])
  gray = keep * clip['shown'] + (1.0 - keep) * gray
  return gray, dict(clip, tissue_noise=tissue, haze_noise=haze, blood_noise=blood, shown=gray)
