"""What lies at a point of the sector: echo level, blood, material point.

Points in the sector frame (mm) are arrays of any shape: the same anatomy is drawn on a beam grid
and labelled on an image grid. `place` is of `anatomy.sample_view`, `frame` of `frame_state`, `spot`
of `locate`.
"""

import jax
import jax.numpy as jnp

from echoforge_jax.phantom import anatomy, motion

# Echo level of a place without any scatterer, dB.
NOTHING = -60.0
_NUM_SEPTUM = 128


def frame_state(heart, place, phase) -> dict:
  """Returns all that changes from frame to frame, for one view; `phase`: beats since ED.

  `table` float32 [NUM_ANGLES + 1, 6] (polar radii and cosines now, radii at ED), `septum`
  [_NUM_SEPTUM] x of the right ventricle's septal edge over z, `shape` of `anatomy.contours`, `g`,
  `open`, `length`, `length_ed`.
  """
  g = motion.ejected(phase, heart['systole'])
  state = motion.beat_state(heart, g)
  shape = anatomy.contours(heart, place['view'], state)
  ed = anatomy.contours(heart, place['view'], motion.end_diastole(heart))
  now, before = anatomy.polar_tables(shape), anatomy.polar_tables(ed)
  z = (jnp.arange(_NUM_SEPTUM) / (_NUM_SEPTUM - 1.0) * 1.4 - 0.2) * (shape['length'])
  left = shape['epi'][: shape['epi'].shape[0] // 2 + 1][::-1]
  septum = jnp.interp(z, jax.lax.cummax(left[:, 1]), left[:, 0])
  return {
    'table': jnp.concatenate([now, before[:, :2]], -1),
    'septum': septum,
    'shape': shape,
    'g': g,
    'open': motion.mitral_opening(phase, heart['systole']),
    'length': shape['length'],
    'length_ed': ed['length'],
  }


def _sigmoid(x):
  return 0.5 * (1.0 + jnp.tanh(0.5 * x))


def locate(place, frame, x_world, y_world) -> dict:
  """Locates points, float32 [...] mm right of and below the probe, relative to the ventricle.

  Returns arrays [...]: `x`, `z` own frame; `r`, `phi` polar around the centre, `down` below it;
  `endo`, `epi` signed distances (positive outside); `above` distance to the mitral plane, positive
  on the ventricle's side; table radii `radii` [..., 6].
  """
  tilt = place['axis_tilt'] + place['rocking'] * frame['g']
  c, s = jnp.cos(tilt), jnp.sin(tilt)
  dx = x_world - place['apex_x']
  dy = y_world - place['apex_y'] - place['apex_retreat'] * frame['g']
  x, z = c * dx - s * dy, s * dx + c * dy
  down = z - anatomy.CENTRE * frame['length']
  r, phi = jnp.sqrt(x * x + down * down + 1e-6), jnp.arctan2(x, down)
  index = jnp.round((phi + jnp.pi) * (anatomy.NUM_ANGLES / (2.0 * jnp.pi)))
  radii = jnp.take(frame['table'], index.astype(jnp.int32), axis=0, mode='clip')
  own = {'x': x, 'z': z, 'r': r, 'phi': phi, 'down': down, 'radii': radii}
  own |= {'x_world': x_world, 'y_world': y_world}
  return own | {
    'endo': (r - radii[..., 0]) * radii[..., 2],
    'epi': (r - radii[..., 1]) * radii[..., 3],
    'above': frame['length'] + frame['shape']['tilt'] * x - z,
  }


def material_point(place, frame, spot):
  """Returns X, Y [...] mm at ED of the tissue that is at a point now.

  Inside the cavity and the wall the map scales radii so that both contours go over into those of
  ED; outside, the displacement fades with distance (turn and retreat of the heart with it), and
  below the mitral plane with depth, down to the fixed atrial roof.
  """
  r, radii = spot['r'], spot['radii']
  endo, epi, endo0, epi0 = (radii[..., k] for k in (0, 1, 4, 5))
  wall = endo0 + (r - endo) * (epi0 - endo0) / (epi - endo)
  outside = r + (epi0 - epi) * jnp.exp(-jnp.maximum(r - epi, 0.0) / 15.0)
  r0 = jnp.where(r < endo, r * endo0 / endo, jnp.where(r < epi, wall, outside))
  ratio = r0 / r
  fade = jnp.clip(1.0 + spot['above'] / place['la_length'], 0.0, 1.0)
  shift = jnp.where(r < epi, 1.0, jnp.exp(-jnp.maximum(r - epi, 0.0) / 15.0))
  centre0 = anatomy.CENTRE * frame['length_ed']
  z0 = spot['down'] * ratio + centre0 * shift + anatomy.CENTRE * frame['length'] * (1.0 - shift)
  x0 = spot['x'] + fade * (spot['x'] * ratio - spot['x'])
  z0 = spot['z'] + fade * (z0 - spot['z'])
  world = anatomy.to_world(jnp.stack([x0, z0], -1), place, 0.0)
  # Tissue around the heart takes no part in its turn and its retreat.
  still_x, still_y = (spot[name] - world[..., k] for k, name in enumerate(('x_world', 'y_world')))
  return world[..., 0] + (1.0 - shift) * still_x, world[..., 1] + (1.0 - shift) * still_y


def _atrium_width(v, top, width):
  """Half-width of an atrium at relative depth v below its valve, mm."""
  upper = top + (width - top) * jnp.sin(0.5 * jnp.pi * jnp.clip(v / 0.42, 0.0, 1.0))
  q = jnp.clip((v - 0.42) / 0.58, 0.0, 1.0)
  return jnp.where(v < 0.42, upper, width * jnp.sqrt(jnp.maximum(1.0 - q**2.4, 0.0)))


def left_atrium(place, frame) -> dict:
  """Returns the left atrium's size now, mm: it fills while the ventricle empties.

  `top` half-width at the valve, `width` largest half-width, `length`, `middle` x at the valve,
  `lean` x at the roof relative to that.
  """
  left, right = frame['shape']['left'], frame['shape']['right']
  top = 0.5 * (right[0] - left[0]) * 0.93
  # The roof stays where it is: the atrium's length follows the base.
  length = frame['length_ed'] + place['la_length'] - frame['length']
  return {
    'top': top,
    'width': jnp.maximum(place['la_width'] * (1.0 + 0.06 * frame['g']), 0.9 * top),
    'length': length,
    'middle': 0.5 * (left[0] + right[0]),
    'lean': place['la_lean'],
  }


def left_atrium_outline(place, frame, count=40):
  """Polygon float32 [2 count, 2] of the left atrium, ventricle's frame."""
  la = left_atrium(place, frame)
  v = jnp.sin(0.5 * jnp.pi * jnp.linspace(0.0, 1.0, count))
  half = _atrium_width(v, la['top'], la['width'])
  middle = la['middle'] + la['lean'] * v

  def side(x):
    return jnp.stack([x, frame['length'] + frame['shape']['tilt'] * x + v * la['length']], -1)

  return jnp.concatenate([side(middle - half), side(middle + half)[::-1]])


def chambers(place, frame, spot) -> dict:
  """Returns signed distances in mm [...], positive inside, of the four chambers.

  `lv`, `la`, `rv`, `ra` (the right heart only in four-chamber views), `rv_wall` distance to the
  right ventricle's free wall.
  """
  x, z, length = spot['x'], spot['z'], frame['length']
  la = left_atrium(place, frame)
  lv = jnp.minimum(-spot['endo'], spot['above'])
  v = -spot['above'] / la['length']
  width = _atrium_width(v, la['top'], la['width'])
  inside_la = jnp.minimum(width - jnp.abs(x - la['middle'] - la['lean'] * v), -spot['above'])
  inside_la = jnp.minimum(inside_la, (1.0 - v) * la['length'])
  # Right ventricle: from a point on the septum, widening to the base.
  where = (z / length + 0.2) / 1.4 * (_NUM_SEPTUM - 1)
  septum = jnp.take(frame['septum'], jnp.round(where).astype(jnp.int32), mode='clip')
  start = place['rv_start']
  u = jnp.clip((z / length - start) / (1.0 - start), 1e-3, 1.05)
  rv_width = place['rv_width'] * (1.0 - 0.15 * frame['g']) * (u ** place['rv_power'])
  rv_wall = x - (septum - rv_width)
  rv = jnp.minimum(
    jnp.minimum(septum - x, rv_wall), jnp.minimum(spot['above'] + 1.0, z - start * length)
  )
  ra_length = place['ra_length'] + frame['length_ed'] - length
  v = -(spot['above'] + 1.0) / ra_length
  middle = la['middle'] - la['width'] - place['atrial_gap'] - (place['ra_width'])
  ra_width = _atrium_width(v, 0.85 * place['ra_width'], place['ra_width'])
  ra = jnp.minimum(ra_width - jnp.abs(x - middle), -spot['above'] - 1.0)
  ra = jnp.minimum(ra, (1.0 - v) * ra_length)
  hidden = (1.0 - place['four']) * 1e3
  return {'lv': lv, 'la': inside_la, 'rv': rv - hidden, 'ra': ra - hidden, 'rv_wall': rv_wall}


def labels(place, frame, x_world, y_world):
  """Returns uint8 [...] label values of points; 0 outside the sector."""
  spot = locate(place, frame, x_world, y_world)
  rooms = chambers(place, frame, spot)
  out = jnp.where(rooms['la'] > 0, 3, 0)
  out = jnp.where((spot['epi'] < 0) & (spot['above'] > 0), 2, out)
  out = jnp.where(rooms['lv'] > 0, 1, out)
  radius = jnp.sqrt(x_world**2 + y_world**2)
  angle = jnp.abs(jnp.arctan2(x_world, y_world))
  inside = (radius < place['depth']) & (angle < place['half'])
  return jnp.where(inside, out, 0).astype(jnp.uint8)


def _segment(x, z, start, end):
  """Squared distance in mm2 to the segment start-end (each [2])."""
  d = end - start
  t = ((x - start[0]) * d[0] + (z - start[1]) * d[1]) / (d @ d + 1e-3)
  t = jnp.clip(t, 0.0, 1.0)
  return (x - start[0] - t * d[0]) ** 2 + (z - start[1] - t * d[1]) ** 2


def _mix(level, new, weight):
  return level + (new - level) * weight


def echo(place, frame, spot, grain, patches):
  """Returns the tissue's echo level, dB relative to myocardium, and the share of blood, [...].

  `grain`: float32 [...] slow heterogeneity of the tissue, unit variance, moving with it; `patches`
  float32 [...] slower still, around the heart, at rest.
  """
  rooms = chambers(place, frame, spot)
  rough = grain * place['heterogeneity_db']
  # Fat and fibrous layers around the heart: patchy, with a bright tail.
  level = place['background_db'] + 1.6 * rough + 0.25 * jnp.maximum(grain, 0.0) * rough
  level = level + place['patches_db'] * patches
  level = _surroundings(place, frame, spot, rooms, level)
  level = _walls(place, frame, spot, level, rough)
  blood = 0.0
  for name, edge in (('lv', 0.7), ('la', 0.8), ('rv', 0.9), ('ra', 0.9)):
    distance = rooms[name]
    if name == 'lv':  # trabeculae: the cavity's edge is rough
      distance = distance - 1.0 - 0.7 * grain
    share = _sigmoid(distance / edge * 2.0)
    if name == 'lv':
      apex = jnp.clip(1.0 - spot['z'] / (place['apex_reach'] * frame['length']), 0.0, 1.0)
      share = share * (1.0 - place['apex_fill'] * apex)
    blood = jnp.maximum(blood, share)
  level = _mix(level, NOTHING, blood)
  level = jnp.maximum(level, _fill(place, frame, spot, rooms, rough))
  level = jnp.maximum(level, _details(place, frame, spot, rooms, rough))
  return level, blood


def _fill(place, frame, spot, rooms, rough):
  """Returns what is gray inside cavities, dB [...]: trabeculae at the border, a hazy atrium."""
  side, near_apex = _sides(place, frame, spot)
  reach = place['rim_reach'] * _mix(1.0, place['rim_apical_reach'], near_apex)
  depth = jnp.maximum(rooms['lv'], 0.0) / reach
  rim = _rim(place, frame, side, near_apex) * jnp.exp(-(depth**1.3)) + 0.5 * rough
  rim = jnp.where((rooms['lv'] > 0) & (place['rim_db'] > 0), place['blood_db'] + rim, NOTHING)
  # A small atrium, at ED, is brighter.
  atrium = place['blood_db'] + place['atrium_db'] * (1.0 - 0.7 * frame['g'])
  atrium = _mix(NOTHING, atrium, _sigmoid(3.0 * rooms['la']))
  return jnp.maximum(rim, atrium)


def _rim(place, frame, side, near_apex):
  """Returns the trabeculae's level at the border, dB above blood; mostly lateral and apical."""
  septal = _mix(place['rim_septal'], 1.0, place['rim_everywhere'])
  there = jnp.maximum(jnp.maximum(side, near_apex), septal)
  apical = place['rim_apical_db'] * near_apex * (place['rim_db'] > 0)
  return (place['rim_db'] + place['rim_systole'] * frame['g']) * there + apical


def _sides(place, frame, spot):
  """Returns how much a point belongs to the right (lateral) wall and to the apex, in [0, 1]."""
  side = _sigmoid(spot['x'] / (0.22 * place['radius']))
  return side, jnp.clip(1.0 - spot['z'] / (0.32 * frame['length']), 0.0, 1.0)


def _surroundings(place, frame, spot, rooms, level):
  """Adds atrial and right-heart walls, the roof, streaks outside the heart."""
  ring = jnp.exp(-((rooms['la'] / 2.2) ** 2)) * (spot['above'] < 0)
  level = _mix(level, place['septal_db'] - 1.0, 0.75 * ring)
  la_length = frame['length_ed'] + place['la_length'] - frame['length']
  beyond = -spot['above'] - la_length - 3.0
  level = level + place['roof_db'] * jnp.exp(
    -((beyond / place['roof_width']) ** 2) - (spot['x'] / 40.0) ** 2
  )
  rv = jnp.exp(-(((rooms['rv_wall'] + 2.0) / 2.2) ** 2)) * (rooms['rv'] > -7.0) * place['four']
  level = _mix(level, -1.0, 0.8 * rv)
  ra = jnp.exp(-((jnp.minimum(rooms['ra'], 0.0) / 2.5) ** 2)) * (rooms['ra'] > -8.0) * place['four']
  level = _mix(level, -1.0, 0.7 * ra)
  for i in range(3):
    a, b, c, e = (place['streak'][i, k] for k in range(4))
    du, dv = spot['x'] - 50.0 * a, spot['z'] - 55.0 - 60.0 * b
    c, s = jnp.cos(1.5 * c), jnp.sin(1.5 * c)
    level = level + place['streak_db'][i] * jnp.exp(
      -(((du * c + dv * s) / (9.0 + 5.0 * e)) ** 2) - ((dv * c - du * s) / 4.0) ** 2
    )
  return level


def _walls(place, frame, spot, level, rough):
  """Adds the left-ventricular wall with its dark parts, and the pericardium."""
  side, near_apex = _sides(place, frame, spot)
  wall = _mix(place['septal_db'], place['lateral_db'], side)
  wall = _mix(wall, place['apical_db'], near_apex)
  wall = wall + rough + 2.0 * jnp.exp(-((spot['endo'] / 1.4) ** 2))
  wall = wall + place['systolic_db'] * frame['g']
  dark = place['dark_wall'] * jnp.maximum(
    jnp.maximum(side, place['dark_apex'] * near_apex), place['dark_septum']
  )
  wall = _mix(wall, place['blood_db'] + place['dark_wall_db'] + 0.5 * rough, dark)
  # Endocardial transition: the label ends before the wall is bright.
  ramp = _mix(place['ramp_septal'], place['ramp_lateral'], side)
  ramp = _mix(ramp, place['ramp_apical'], near_apex)
  ramp = ramp * (1.0 + (place['ramp_systole'] - 1.0) * frame['g'])
  ramp = jnp.minimum(jnp.maximum(ramp, place['deep_ramp'] * frame['g']), 0.9)
  ramp = ramp * (spot['radii'][..., 1] - spot['radii'][..., 0]) + 0.01
  begins = jnp.exp(-((jnp.maximum(spot['endo'] + 1.0, 0.0) / ramp) ** place['ramp_power']))
  begins = jnp.where(ramp > 0.1, begins * (1.0 - place['ramp_keep'] * side), 0.0)
  start = jnp.maximum(place['ramp_db'], _rim(place, frame, side, near_apex))
  start = jnp.minimum(place['blood_db'] + start + 0.5 * rough, wall)
  wall = _mix(wall, start, begins)
  # The cavity too, for now: blood replaces it up to its rough edge.
  inside = _sigmoid(-spot['epi'] * 2.0) * _sigmoid((spot['above'] + 2.0) * 1.5)
  level = _mix(level, wall, inside * (1.0 - place['fading']))
  where = jnp.where(place['four'] > 0, side, 0.55 + 0.45 * side)
  sac = jnp.exp(-(((spot['epi'] - 1.5) / 1.6) ** 2)) * _sigmoid(spot['above'] + 2.0)
  return level + place['pericardium_db'] * sac * where * (1.0 - near_apex)


def _details(place, frame, spot, rooms, rough):
  """Returns leaflets, annulus, papillary muscles, tricuspid valve, dB [...]."""
  x, z = spot['x'], spot['z']
  left, right = frame['shape']['left'], frame['shape']['right']
  level = jnp.full_like(x, NOTHING)

  def draw(weight, db):
    return jnp.maximum(level, _mix(NOTHING, db, weight))

  middle = 0.5 * (left + right)
  for i, (hinge, sign) in enumerate(((left, 1.0), (right, -1.0))):
    reach = jnp.abs(middle[0] - hinge[0]) * place['leaflet_length'][i]
    angle = 0.12 + 1.05 * frame['open']
    along = jnp.stack([sign * jnp.cos(angle), -jnp.sin(angle)])
    across = jnp.stack([sign * jnp.sin(angle), jnp.cos(angle)])
    knee = hinge + 0.5 * reach * along - (place['leaflet_sag'] * 0.35 * reach * across)
    near = jnp.minimum(_segment(x, z, hinge, knee), _segment(x, z, knee, hinge + reach * along))
    level = draw(
      jnp.exp(-0.5 * near / place['leaflet_width'] ** 2), place['leaflet_db'] + 0.8 * rough
    )
    spot2 = ((x - hinge[0] + sign * 2.0) / 3.4) ** 2 + ((z - hinge[1] - 0.5) / 2.6) ** 2
    level = draw(jnp.exp(-0.5 * spot2), place['annulus_db'][i] + 0.6 * rough)
    turn = (spot['phi'] - place['papillary_angle'][i]) * spot['r']
    deep = spot['endo'] + place['papillary_depth'][i]
    blob = (deep / place['papillary_size'][i]) ** 2 + (turn / place['papillary_length'][i]) ** 2
    level = draw(
      jnp.exp(-0.5 * blob**1.5) * place['papillary_on'][i] * _sigmoid(spot['above'] - 8.0),
      place['papillary_db'][i] + rough,
    )
  # Tricuspid valve, slightly more apical than the mitral one.
  root = jnp.stack([left[0] - 7.0, frame['length'] - 5.0])
  free = root - jnp.stack([0.95 * place['rv_width'], 2.0])
  middle = 0.5 * (root + free) + jnp.stack([0.0, 5.0 - 14.0 * frame['open']])
  near = jnp.minimum(_segment(x, z, root, middle), _segment(x, z, middle, free))
  level = draw(jnp.exp(-0.5 * near) * place['four'], place['leaflet_db'] - 3.0 + 0.8 * rough)
  # Moderator band: across the right ventricle near its apex.
  bottom = (place['rv_start'] + 0.25) * frame['length']
  band = jnp.exp(-0.5 * ((z - bottom - 0.4 * (rooms['rv_wall'] - 8.0)) / 1.6) ** 2) * (
    rooms['rv'] > -2.0
  )
  return draw(band * place['four'], place['moderator_db'] + rough)
