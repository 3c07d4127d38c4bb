"""Who the patient is and where the heart lies: sampling and contours.

Two frames of reference, both in mm. The ventricle's own: x to the right, z from the apex (0, 0)
along the straight long axis to the base (0, L). The sector's: X to the right, Y down, origin at the
probe. Pure JAX: a patient and a streamed batch come from the same functions.
"""

import jax
import jax.numpy as jnp

from echoforge_jax.phantom import motion
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.draw import Draw

# Points of the polar tables around the ventricle's centre.
NUM_ANGLES = 1024
# Centre of the polar tables, share of the long axis from the apex.
CENTRE = 0.55


def _wave(draw, count, rows):
  """Smooth zero-mean perturbations of unit size, float32 [rows, levels]."""
  s = motion.levels()
  k = jnp.arange(1, count + 1, dtype=jnp.float32)[None, :, None]
  phase = draw.uniform((0.0, 2.0 * jnp.pi), (rows, count, 1))
  gain = draw.normal((rows, count, 1)) / k
  wave = (gain * jnp.sin(jnp.pi * k * s[None, None] + phase)).sum(1)
  taper = jnp.clip(s / 0.2, 0.0, 1.0) * jnp.clip((1.0 - s) / 0.15, 0.0, 1.0)
  return wave * taper[None]


def _bump(draw, low, high, size):
  """One smooth bump along a wall, float32 [levels] in [0, 1]."""
  s = motion.levels()
  return jnp.exp(-(((s - draw.uniform((low, high))) / draw.uniform(size)) ** 2))


def _lost_motion(d, config, ef):
  """Draws the share of each wall's motion that is lost, [4, levels]."""
  # At least half the circumference keeps moving, or no radius could eject the
  # prescribed volume.
  hypo = d.chance(config.hypokinesia_share) * (ef < 55.0)
  walls = jax.nn.one_hot(d.index(4), 4)
  walls = jnp.clip(walls + 0.6 * jnp.roll(walls, 2), 0.0, 1.0)
  lost = hypo * d.uniform(config.hypokinesia_severity) * walls[:, None]
  return lost * _bump(d, 0.15, 0.8, (0.15, 0.35))[None]


def sample_heart(key, config: PhantomConfig) -> dict:
  """Draws one patient: group, volumes, shape and motion of the ventricle.

  Returns float32 scalars and small arrays, completed by `motion.complete`: lengths mm, volumes ml,
  EF percent, angles rad, times in beats. Arrays per wall [4, levels] are 4CH left, 4CH right, 2CH
  left, 2CH right. `config` is static under jit.
  """
  d = Draw(key)
  s = motion.levels()

  def table(name):
    return jnp.array([getattr(group, name) for group in config.groups], jnp.float32)

  def within(name, u):
    return table(name)[group, 0] + u * (table(name)[group, 1] - table(name)[group, 0])

  shares = table('share')
  group = jnp.searchsorted(jnp.cumsum(shares) / jnp.sum(shares), d.unit())
  group = jnp.clip(group, 0, len(config.groups) - 1)
  size = d.unit() ** config.size_skew
  other = d.unit() ** config.size_skew
  edv = within('edv_ml', size)
  ef = within('ef_percent', d.uniform((0.0, 1.0)))
  # A larger ventricle is a longer one: no ball-shaped hearts.
  length = within('length_mm', 0.65 * size + 0.35 * other)
  still = _lost_motion(d, config, ef)
  shape = 1.0 + config.undulation * _wave(d, 4, 4)
  bulge = d.chance(config.septal_bulge_share) * d.uniform(config.septal_bulge)
  bulge = bulge * _bump(d, *config.septal_bulge_at, (0.08, 0.2))
  shape = shape - bulge[None] * jnp.array([[1.0], [0.0], [0.0], [0.0]])
  apex = d.uniform(config.wall_apex)
  thickness = apex + (1.0 - apex) * jnp.clip(s / 0.3, 0.0, 1.0)
  taper = 1.0 - 0.3 * jnp.clip((s - 0.85) / 0.15, 0.0, 1.0)
  sides = d.uniform((0.88, 1.12), (4, 1))
  two_chamber = d.uniform(config.wall_2ch)
  sides = sides * jnp.stack([1.0, 1.0, two_chamber, two_chamber])[:, None]
  male = d.chance(0.66)
  heart_rate = d.uniform(config.heart_rate)
  # Electromechanical systole shortens with the square root of the beat.
  systole = jnp.clip(0.34 * jnp.sqrt(heart_rate / 60.0) * d.uniform((0.9, 1.1)), 0.25, 0.5)
  return motion.complete(
    {
      'group': group,
      'edv': edv,
      'ef': ef,
      'esv': edv * (1.0 - ef / 100.0),
      'length_ed': length,
      'length_es': length * (1.0 - ef / 100.0 * d.uniform(config.shortening)),
      'wall': within('wall_mm', d.uniform((0.0, 1.0))) * d.uniform(config.wall_scale),
      'thickening': d.uniform(config.thickening),
      'roundness': d.uniform(config.roundness),
      'apex_retreat': d.uniform(config.apex_retreat),
      'widest': d.uniform(config.widest),
      'kappa': d.uniform(config.kappa),
      'bend': d.uniform(config.bend, (2,)),
      'tilt': d.uniform(config.mitral_tilt, (2,)),
      'wall_shape': shape,
      'still': still,
      'thickness': (thickness * taper)[None] * sides,
      'apical_narrowing': d.uniform(config.apical_narrowing),
      'annulus_gain': ef / 100.0 * d.uniform(config.annulus_stiffness),
      'heart_rate': heart_rate,
      'systole': systole,
      'male': male,
      'age': jnp.round(jnp.clip(65.0 + 15.0 * d.normal(), 20.0, 95.0)),
      'rocking': jnp.deg2rad(config.rocking_mean + config.rocking * d.normal()),
    }
  )


def contours(heart, view, state) -> dict:
  """Returns the contours of one view (0 for 4CH, 1 for 2CH; may be traced), ventricle's own frame.

  `endo`, `epi` float32 [2 levels - 1, 2] (x, z) mm from the left hinge over the apex to the right
  hinge; `left`, `right` [2] hinges of the mitral valve; `tilt`, `length`. `state` is of
  `motion.beat_state`.
  """
  x_left, z_left, x_right, z_right = motion.wall_curves(
    heart, view, state['widths'], state['length']
  )
  x, z = (jnp.concatenate([a[::-1], b[1:]]) for a, b in ((x_left, x_right), (z_left, z_right)))
  endo = jnp.stack([x, z], -1)
  thick = heart['thickness']
  thick = state['wall'] * jnp.concatenate([thick[2 * view][::-1], thick[2 * view + 1][1:]])
  tangent = jnp.gradient(endo, axis=0)
  tangent = tangent / (jnp.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-6)
  outward = jnp.stack([tangent[:, 1], -tangent[:, 0]], -1)
  kernel = jnp.array([0.25, 0.5, 0.25])
  smooth = jax.vmap(lambda v: jnp.convolve(jnp.pad(v, 1, mode='edge'), kernel, mode='valid'), 1, 1)
  outward = smooth(smooth(outward))
  epi = endo + thick[:, None] * outward
  # The muscle ends at the mitral plane.
  tilt = heart['tilt'][view]
  epi = jnp.stack([epi[:, 0], jnp.minimum(epi[:, 1], state['length'] + tilt * epi[:, 0])], -1)
  hinges = {'left': endo[0], 'right': endo[-1]}
  return {'endo': endo, 'epi': epi, **hinges, 'tilt': tilt, 'length': state['length']}


def polar_tables(shape) -> jax.Array:
  """Returns the radii of both contours around the ventricle's centre, float32 [NUM_ANGLES + 1, 4].

  Columns: endocardial and epicardial radius (mm) and for each the cosine between ray and normal, at
  angles from -pi (the apex) over the left wall, 0 (the base), the right wall to pi. Both walls
  continue below the mitral plane, so that radii are continuous there.
  """
  length = shape['length']
  grid = jnp.linspace(-jnp.pi, jnp.pi, NUM_ANGLES + 1)

  def table(path):
    middle = path.shape[0] // 2
    drop = jnp.array([[0.0, 0.15], [0.0, 0.35]]) * length
    left = path[middle::-1]
    right = path[: middle - 1 : -1]
    bottom = jnp.array([[0.0, 1.4]]) * length
    ring = jnp.concatenate([left, left[-1:] + drop, bottom, (right[:1] + drop)[::-1], right])
    offset = ring - jnp.array([[0.0, CENTRE]]) * length
    angle = jnp.arctan2(offset[:, 0], offset[:, 1])
    angle = angle.at[0].set(-jnp.pi).at[-1].set(jnp.pi)
    # Monotone even where undulation folds the contour a little.
    angle = jax.lax.cummax(angle)
    radius = jnp.interp(grid, angle, jnp.linalg.norm(offset, axis=-1))
    slope = (jnp.roll(radius, -1) - jnp.roll(radius, 1)) * (NUM_ANGLES / (4.0 * jnp.pi))
    return radius, radius / jnp.sqrt(radius**2 + slope**2)

  endo, endo_cos = table(shape['endo'])
  epi, epi_cos = table(shape['epi'])
  return jnp.stack([endo, jnp.maximum(epi, endo + 0.5), endo_cos, epi_cos], -1)


def to_world(points, place, g):
  """Maps (x, z) [..., 2] in the own frame to (X, Y) in the sector frame, mm."""
  tilt = place['axis_tilt'] + place['rocking'] * g
  c, s = jnp.cos(tilt), jnp.sin(tilt)
  x, z = points[..., 0], points[..., 1]
  depth = place['apex_y'] + place['apex_retreat'] * g
  return jnp.stack([place['apex_x'] + c * x + s * z, depth - s * x + c * z], -1)


def sample_view(key, config: PhantomConfig, heart, view) -> dict:
  """Draws one recording of a heart: placement, chambers, scanner, display.

  Returns float32 scalars and small arrays: lengths mm, angles rad, levels dB relative to
  myocardium. `quality` is int32 (index of `QUALITIES`). `view`: int, 0 for 4CH, 1 for 2CH (may be
  traced).
  """
  d = Draw(key)
  ed = contours(heart, view, motion.end_diastole(heart))
  radius = 0.5 * (ed['endo'][:, 0].max() - ed['endo'][:, 0].min())
  four = jnp.asarray(view == 0, jnp.float32)
  place = _place(d, config, heart, ed)
  la_length = d.uniform(config.la_length)
  base = place['apex_y'] + heart['length_ed'] * jnp.cos(place['axis_tilt'])
  depth = jnp.clip(base + la_length * d.uniform(config.depth_margin), *config.depth)
  out = place | {
    'depth': depth,
    'four': four,
    'radius': radius,
    'rocking': heart['rocking'],
    'apex_retreat': heart['apex_retreat'] * (heart['length_ed'] - heart['length_es']),
    'view': jnp.asarray(view, jnp.int32),
    'la_length': la_length,
    'la_width': radius * d.uniform(config.la_width),
    'la_lean': radius * 0.2 * d.normal(),
    'rv_width': radius * d.uniform(config.rv_width),
    'rv_start': d.uniform((0.12, 0.4)),
    'rv_power': d.uniform((0.5, 0.95)),
    'ra_width': radius * d.uniform(config.ra_width),
    'ra_length': la_length * d.uniform((0.75, 1.1)),
    'atrial_gap': d.uniform((2.0, 4.5)),
  }
  out |= _sample_echo(d, config) | _sample_scanner(d, config)
  # Drawn last: what is drawn before them stays as it was.
  return out | {
    'apex_fill': d.chance(config.apex_fill_share) * d.uniform((0.6, 1.0)),
    'apex_reach': d.uniform((0.1, 0.3)),
    **_sample_transition(d, config),
  }


def _sample_transition(d, config) -> dict:
  """Draws how the wall begins, what hides the cavity, and the distractors."""
  ramps = ('ramp_septal', 'ramp_lateral', 'ramp_apical', 'ramp_db', 'ramp_keep')
  return {
    **d.ranges(
      config, *ramps, 'ramp_systole', 'rim_systole', 'rim_reach', 'systolic_db', 'atrium_db'
    ),
    'ramp_power': d.uniform((1.5, 4.0)),
    'deep_ramp': d.chance(config.deep_share) * d.uniform(config.deep_ramp),
    'rim_db': d.uniform(config.rim_db) + jnp.where(d.chance(config.rim_share), 0.0, -60.0),
    'rim_everywhere': d.chance(0.3),
    'apex_haze_db': d.uniform(config.apex_haze_db)
    + jnp.where(d.chance(config.apex_haze_share), 0.0, -60.0),
    'apex_haze_fall': d.uniform(config.apex_haze_fall),
    'far_arc_db': jnp.where(d.chance(config.arc_share), 0.0, -60.0) + d.uniform((-12.0, 2.0), (2,)),
    'far_arc': d.uniform((0.0, 1.0), (2, 4)),
    'band_db': d.chance(config.band_share) * d.uniform((-6.0, 7.0), (2,)),
    'band_at': d.uniform((0.15, 0.95), (2,)),
    'band_width': d.uniform((0.03, 0.15), (2,)),
    'step_db': d.chance(config.step_share) * d.uniform((-7.0, 7.0)),
    'step_at': d.uniform((0.2, 0.8)),
    **d.ranges(config, 'dark_wall_db', 'patches_db', 'haze_patches_db', 'haze_reach', 'rim_septal'),
    **d.ranges(config, 'rim_apical_db', 'rim_apical_reach'),
    'patch_size': d.unit(),
    'fading': d.chance(config.fading_share) * d.uniform(config.fading),
    'fan_db': jnp.where(d.chance(config.fan_share), 0.0, -60.0) + d.uniform((-18.0, 0.0)),
    'fan_at': d.uniform((-1.0, 1.0)),
    'fan_width': jnp.deg2rad(d.uniform((6.0, 20.0))),
    'gain_bow': d.uniform(config.gain_curve_db),
    'gain_side': 0.67 * d.uniform(config.gain_curve_db),
    'far_band_db': d.chance(config.far_band_share) * d.uniform((2.0, 12.0)),
    'far_band_at': d.uniform((0.9, 1.0)),
    'far_band_width': d.uniform((0.03, 0.1)),
  }


def _place(d, config, heart, ed) -> dict:
  """Puts the ventricle under the probe, inside the sector if asked to."""
  angles = jnp.deg2rad(jnp.array(config.half_angles, jnp.float32))
  half = angles[d.index(len(config.half_angles))]
  half = half + jnp.deg2rad(config.half_angle_sd) * d.normal()
  mean, sd = config.apex_direction
  direction = jnp.deg2rad(mean + sd * d.normal())
  mean, sd = config.axis_tilt
  tilt = jnp.deg2rad(mean + sd * jnp.clip(d.normal(), -2.0, 2.0))
  apex = d.uniform(config.apex_depth)
  if config.sector_margin < 0:
    return {'half': half, 'axis_tilt': tilt, 'apex_y': apex, 'apex_x': apex * jnp.tan(direction)}
  # Deeper until the contour's opening fits, then turned into the sector.
  room = half - jnp.deg2rad(config.sector_margin)
  rock = jnp.abs(heart['rocking'])
  deeper = apex + jnp.arange(0.0, 60.0, 3.0)

  def span(depth):
    where = {'axis_tilt': tilt, 'apex_y': depth, 'apex_x': depth * jnp.tan(direction)}
    world = to_world(ed['endo'], where | {'rocking': 0.0, 'apex_retreat': 0.0}, 0.0)
    theta = jnp.arctan2(world[:, 0], world[:, 1])
    return theta.min() - rock, theta.max() + rock

  low, high = jax.vmap(span)(deeper)
  fits = (high - low) < 2.0 * room
  best = jnp.where(fits.any(), jnp.argmax(fits), len(deeper) - 1)
  turn = jnp.clip(0.0, -room - low[best], room - high[best])
  distance = deeper[best] / jnp.cos(direction)
  return {
    'half': half,
    'axis_tilt': tilt + turn,
    'apex_x': distance * jnp.sin(direction + turn),
    'apex_y': distance * jnp.cos(direction + turn),
  }


def _sample_echo(d, config) -> dict:
  """Draws the brightness of each structure and the place of small ones."""
  quality = jnp.searchsorted(jnp.cumsum(jnp.array(config.quality_share)), d.unit()).clip(0, 2)
  graded = lambda ranges: d.uniform(tuple(jnp.array(ranges, jnp.float32)[quality]))  # noqa: E731
  shadows = jnp.arange(config.max_shadows) < d.index(config.max_shadows + 1)
  return {
    'quality': quality,
    **{n: graded(getattr(config, n)) for n in ('blood_db', 'haze_db', 'noise_db', 'dynamic_range')},
    **d.ranges(config, 'background_db', 'lateral_db', 'septal_db', 'apical_db'),
    'dark_wall': d.chance(config.dark_wall_share) * d.uniform(config.dark_wall),
    'dark_apex': d.chance(0.4),
    'dark_septum': d.chance(0.2),
    **d.ranges(config, 'pericardium_db', 'leaflet_db'),
    'annulus_db': d.uniform(config.annulus_db, (2,)),
    'leaflet_length': d.uniform((0.75, 1.1), (2,)),
    'leaflet_sag': d.uniform((0.1, 0.45)),
    'leaflet_width': d.uniform((0.8, 1.7)),
    'papillary_db': d.uniform(config.papillary_db, (2,)),
    'papillary_angle': d.uniform((0.9, 2.3), (2,)) * jnp.array([1.0, -1.0]),
    'papillary_depth': d.uniform((1.0, 10.0), (2,)),
    'papillary_size': d.uniform((1.5, 3.6), (2,)),
    'papillary_length': d.uniform((5.0, 16.0), (2,)),
    'papillary_on': jnp.stack([d.chance(0.75), d.chance(0.35)]),
    'moderator_db': d.uniform((-9.0, 3.0)),
    'roof_db': d.uniform(config.roof_db),
    'roof_width': d.uniform((3.0, 9.0)),
    'heterogeneity_db': d.uniform(config.heterogeneity_db),
    'shadow_db': shadows * jnp.stack([graded(config.shadow_db) for _ in range(config.max_shadows)]),
    'shadow_theta': d.uniform((-1.1, 1.1), (config.max_shadows,)),
    'shadow_width': d.uniform((0.03, 0.2), (config.max_shadows,)),
    'shadow_start': d.uniform((0.0, 50.0), (config.max_shadows,)),
    'edge_db': d.uniform((0.0, 9.0)),
    'edge_power': d.uniform((4.0, 10.0)),
    'streak': d.uniform((-1.0, 1.0), (3, 4)),
    'streak_db': d.uniform(config.streak_db, (3,)),
    'near_field_db': d.uniform(config.near_field_db),
    'near_field_depth': d.uniform((4.0, 11.0)),
    'arc_db': d.uniform((0.0, 6.0)),
    'arc_period': d.uniform((2.5, 6.0)),
    'haze_side': d.uniform((-1.0, 1.0)),
    'haze_side_db': d.uniform(config.haze_side_db),
    'haze_fall': d.uniform((-8.0, 6.0)),
  }


def _sample_scanner(d, config) -> dict:
  """Draws pulse, beam, timing and display settings."""
  display = ('gamma', 'fps', 'tissue_time', 'haze_time', 'blood_time', 'persistence')
  return {
    'axial_fwhm': d.uniform(config.axial_fwhm),
    'lateral_fwhm': jnp.deg2rad(d.uniform(config.lateral_fwhm)),
    'post_axial': d.uniform(config.post_axial),
    'post_lateral': jnp.deg2rad(d.uniform(config.post_lateral)),
    'tgc_error': d.uniform(config.tgc_error),
    'wavelength': jnp.float32(config.wavelength),
    # Two-way loss at the carrier's frequency, dB per mm.
    'loss': jnp.float32(0.2 * config.attenuation * 1.54 / config.wavelength),
    'gray': d.uniform(config.myocardium_gray),
    **d.ranges(config, *display),
  }
