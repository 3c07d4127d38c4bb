"""The beat: volume over time, mitral opening, and a wall that obeys both.

Prescribed are V(t) and L(t). The cavity's radius R(t) follows from the biplane disc integral of the
contours as they are, bent, tilted and hypokinetic, so that the volume is exact; the wall's
thickness follows from a constant myocardial volume. Pure JAX on scalars of time; `jax.vmap` adds
frames.
"""

import jax
import jax.numpy as jnp

# Levels from apex (0) to base (1) on which all contours are tabulated; dense
# at the apex where the curvature is.
NUM_LEVELS = 49
# Discs of the exact volume integral.
NUM_DISCS = 120


def levels() -> jax.Array:
  """Returns float32 [NUM_LEVELS] in [0, 1], apex to base."""
  return jnp.linspace(0.0, 1.0, NUM_LEVELS) ** 1.6


def _smoothstep(x):
  x = jnp.clip(x, 0.0, 1.0)
  return x * x * (3.0 - 2.0 * x)


def ejected(phase, systole):
  """Returns the share [...] of the stroke volume that has left the LV (ours).

  It is 0 at ED and 1 at ES, monotonic between them; rapid filling, diastasis and atrial kick bring
  it back. `phase`: float [...] beats since ED (periodic); `systole`: beats from ED to ES.
  """
  phase = jnp.mod(phase, 1.0)
  u = jnp.clip(phase / systole, 0.0, 1.0)
  rise = jnp.sin(0.5 * jnp.pi * u**0.9) ** 2
  v = jnp.clip((phase - systole) / (1.0 - systole), 0.0, 1.0)
  back = (
    0.64 * _smoothstep((v - 0.08) / 0.36)
    + 0.08 * _smoothstep(v)
    + 0.28 * _smoothstep((v - 0.74) / 0.24)
  )
  return jnp.where(phase <= systole, rise, 1.0 - back)


def mitral_opening(phase, systole):
  """Returns [...] in [0, 1]: 0 closed (systole), 1 wide open (ours)."""
  phase = jnp.mod(phase, 1.0)
  v = jnp.clip((phase - systole) / (1.0 - systole), 0.0, 1.0)
  early = _smoothstep((v - 0.07) / 0.08) * (1.0 - 0.75 * _smoothstep((v - 0.32) / 0.12))
  late = 0.45 * _smoothstep((v - 0.74) / 0.06)
  close = 1.0 - _smoothstep((v - 0.9) / 0.09)
  return jnp.where(phase <= systole, 0.0, (early + late).clip(0.0, 1.0) * close)


def profiles(heart, g):
  """Returns the walls' half-widths over the radius R, [4, NUM_LEVELS]."""
  s = levels()
  a = heart['widest']
  p = heart['roundness']
  # Of the ellipse's family; the floor keeps the gradient of the root finite.
  ellipse = jnp.maximum(1.0 - jnp.abs((s - a) / a) ** p, 0.0) ** (1.0 / p)
  narrow = 1.0 - heart['apical_narrowing'] * g * jnp.exp(-((s / 0.3) ** 2))
  # The annulus is stiff: it takes part in the ejection only in part.
  stiff = 1.0 + heart['annulus_gain'] * g * s**3
  scale = jnp.stack([1.0, 1.0, heart['kappa'], heart['kappa']])
  return (ellipse * narrow * stiff)[None] * heart['wall_shape'] * (scale[:, None])


def _trapezoid(values):
  s = levels()
  return jnp.sum(0.5 * (values[1:] + values[:-1]) * jnp.diff(s))


def wall_curves(heart, view, widths, length):
  """Returns x_left, z_left, x_right, z_right of one view, own frame, float32 [NUM_LEVELS] mm.

  `view`: 0 for 4CH, 1 for 2CH (may be traced); `widths`: float32 [4, NUM_LEVELS] half-widths in mm;
  `length`: long axis in mm.
  """
  s = levels()
  middle = heart['bend'][view] * length * jnp.sin(jnp.pi * s) ** 2 * (0.5 + s)
  x_left = middle - widths[2 * view]
  x_right = middle + widths[2 * view + 1]
  tilt = heart['tilt'][view]
  z_left = s * length + tilt * x_left[-1] * s**4
  z_right = s * length + tilt * x_right[-1] * s**4
  return x_left, z_left, x_right, z_right


def _chords(heart, view, widths, length):
  """Returns lengths in mm [NUM_DISCS] of the discs across the long axis."""
  x_left, z_left, x_right, z_right = wall_curves(heart, view, widths, length)
  z = (jnp.arange(NUM_DISCS) + 0.5) / NUM_DISCS * length
  left = jnp.interp(z, z_left, x_left)
  right = jnp.interp(z, z_right, x_right)
  tilt = heart['tilt'][view]
  plane = (z - length) / jnp.where(jnp.abs(tilt) < 1e-6, 1e-6, tilt)
  left = jnp.where(tilt > 0, jnp.maximum(left, plane), left)
  right = jnp.where(tilt < 0, jnp.minimum(right, plane), right)
  return jnp.maximum(right - left, 0.0)


def biplane_volume(heart, widths, length):
  """Returns the volume in ml by biplane disc integration of the contours.

  V = pi/4 sum_i d4_i d2_i L / n over discs perpendicular to the long axis, after bending and
  tilting (Simpson's rule, the clinical definition).
  """
  d4 = _chords(heart, 0, widths, length)
  d2 = _chords(heart, 1, widths, length)
  return jnp.pi / 4.0 * jnp.mean(d4 * d2) * length / 1000.0


def _solve_widths(heart, volume, length, g, still, still_widths):
  """Returns half-widths [4, NUM_LEVELS] in mm that hold exactly `volume` ml.

  A wall moves with w = (1 - m) R p + m w_ED, m its share of lost motion: the volume is quadratic in
  R. Rescaled solutions remove the small error that the tilted mitral plane makes.
  """
  moving = (1.0 - still) * profiles(heart, g)
  fixed = still * still_widths
  a4, a2 = moving[0] + moving[1], moving[2] + moving[3]
  c4, c2 = fixed[0] + fixed[1], fixed[2] + fixed[3]
  qa, qb, qc = (_trapezoid(a4 * a2), _trapezoid(a4 * c2 + a2 * c4), _trapezoid(c4 * c2))

  def widths_for(target):
    k = qc - target * 1000.0 / (jnp.pi / 4.0 * length)
    root = jnp.sqrt(jnp.maximum(qb * qb - 4.0 * qa * k, 0.0))
    return (root - qb) / (2.0 * qa) * moving + fixed

  def refine(_, target):
    found = biplane_volume(heart, widths_for(target), length)
    return target * volume / found

  return widths_for(jax.lax.fori_loop(0, 4, refine, volume))


def end_diastole(heart) -> dict:
  """Returns the `beat_state` at ED, as `complete` stored it with the heart."""
  size = {'length': heart['length_ed'], 'volume': heart['edv']}
  return size | {'widths': heart['ed_widths'], 'wall': heart['wall'], 'g': 0.0}


def _thickness_terms(heart, widths):
  """Coefficients of the muscle's cross-section: a h^2 + b h, mm2."""
  q = heart['thickness']
  q4, q2 = q[0] + q[1], q[2] + q[3]
  d4, d2 = widths[0] + widths[1], widths[2] + widths[3]
  return _trapezoid(q4 * q2), _trapezoid(d4 * q2 + d2 * q4)


def complete(heart) -> dict:
  """Adds ED widths mm [4, NUM_LEVELS] and `muscle`, mm3 up to a constant factor."""
  nothing = jnp.zeros_like(heart['still'])
  widths = _solve_widths(heart, heart['edv'], heart['length_ed'], 0.0, nothing, nothing)
  a, b = _thickness_terms(heart, widths)
  muscle = (a * heart['wall'] + b) * heart['wall'] * heart['length_ed']
  return dict(heart, ed_widths=widths, muscle=muscle)


def beat_state(heart, g) -> dict:
  """Returns the ventricle's shape when the share `g` of the stroke is out.

  `length` mm, `volume` ml, `widths` mm [4, NUM_LEVELS], `wall` (thickness in mm where the thickness
  profile is 1) and `g`.
  """
  volume = heart['edv'] + (heart['esv'] - heart['edv']) * g
  length = heart['length_ed'] + (heart['length_es'] - heart['length_ed']) * g
  widths = _solve_widths(heart, volume, length, g, heart['still'], heart['ed_widths'])
  # Constant myocardial volume: a quadratic in the thickness.
  a, b = _thickness_terms(heart, widths)
  c = heart['muscle'] / length
  wall = (jnp.sqrt(b * b + 4.0 * a * c) - b) / (2.0 * a)
  wall = heart['wall'] + heart['thickening'] * (wall - heart['wall'])
  return {'length': length, 'volume': volume, 'widths': widths, 'wall': wall, 'g': g}
