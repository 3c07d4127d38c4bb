"""Ranges from which synthetic patients are drawn, with unit and source.

A pair `(low, high)` is sampled uniformly unless its comment says otherwise; values without a unit
are dimensionless. Hergum 2009 and Gao 2009 (COLE) describe the beam-space image model; "measured"
means on real CAMUS frames (docs/phantom.md, Calibration); "transfer" are ranges that helped a
network trained on synthetic stills to segment real clips; fields that name no source are this
project's choice.
"""

import dataclasses

Range = tuple[float, float]
# One range for each of `QUALITIES`.
Graded = tuple[Range, Range, Range]
QUALITIES = ('Good', 'Medium', 'Poor')


@dataclasses.dataclass(frozen=True)
class Group:
  """One clinical group of patients."""

  name: str
  share: float  # Probability; the shares of all groups sum to 1.
  edv_ml: Range
  ef_percent: Range
  wall_mm: Range  # Wall thickness at ED.
  length_mm: Range  # Long axis of the cavity at ED.


GROUPS = (
  Group('normal', 0.30, (48, 130), (55, 70), (7, 10), (60, 82)),
  Group('mild', 0.30, (62, 150), (45, 55), (8, 11), (66, 86)),
  Group('reduced', 0.30, (90, 260), (18, 45), (7, 10), (72, 94)),
  Group('hypertrophic', 0.10, (48, 105), (60, 75), (13, 20), (60, 80)),
)

# Of the preset `transfer`: wider in size, thickness and contraction.
WIDE_GROUPS = (
  Group('normal', 0.36, (38, 130), (52, 78), (6.5, 10), (58, 84)),
  Group('mild', 0.26, (55, 150), (40, 58), (7, 11), (62, 90)),
  Group('reduced', 0.24, (80, 280), (12, 45), (6.5, 10), (68, 98)),
  Group('hypertrophic', 0.14, (38, 110), (58, 82), (10.5, 15), (58, 84)),
)


def _both(camus, randomized):
  """Returns a field with its values in the presets `camus` (the default) and `randomized`."""
  return dataclasses.field(default=camus, metadata={'randomized': randomized})


def _three(low, high) -> Graded:
  return ((low, high),) * 3


@dataclasses.dataclass(frozen=True)
class PhantomConfig:
  """Everything a synthetic patient is drawn from (immutable, hashable)."""

  # ---- people
  groups: tuple[Group, ...] = GROUPS  # Clinical literature; sizes fitted to measured areas.
  quality_share: tuple[float, float, float] = (0.35, 0.46, 0.19)  # Of `QUALITIES`; CAMUS paper.
  # Exponent on the uniform draw of volume and length; above 1 leans to the small end of each
  # group's range (measured areas).
  size_skew: float = _both(4.5, 1.3)
  heart_rate: Range = (52.0, 95.0)  # Beats per minute.
  fps: Range = (40.0, 60.0)  # Frames per second of the recording; CAMUS order of magnitude.
  num_frames: tuple[int, int] = (10, 30)  # Frames from ED to ES, inclusive; CAMUS half sequences.

  # ---- left ventricle
  # Apex to widest level over length; measured widths.
  widest: Range = _both((0.58, 0.88), (0.48, 0.76))
  # Exponent of the outline: 2 is an ellipse, above it the apex is blunter; measured widths.
  roundness: Range = _both((1.9, 3.4), (2.0, 2.0))
  kappa: Range = _both((0.92, 1.08), (0.85, 1.15))  # R_2CH over R_4CH; design.
  bend: Range = _both((-0.025, 0.05), (-0.05, 0.08))  # Midline bend over length in each view.
  mitral_tilt: Range = _both((-0.06, 0.06), (-0.16, 0.16))  # Mitral plane's slope to the long axis.
  undulation: float = _both(0.03, 0.055)  # Relative standard deviation of wall undulation.
  shortening: Range = _both((0.22, 0.36), (0.1, 0.4))  # Long-axis shortening over EF.
  apical_narrowing: Range = _both((-0.2, 0.15), (-0.1, 0.45))  # Extra narrowing of the apex at ES.
  annulus_stiffness: Range = _both((0.2, 0.7), (0.1, 0.9))  # Missing share of its radial motion.
  # Wall thickness over that of the group, as CAMUS labels it, with trabeculae and pericardium; that
  # of the apex over the sides'; thickening over that of a wall of constant volume; measured.
  wall_scale: Range = _both((1.1, 1.4), (1.0, 1.0))
  wall_2ch: Range = _both((1.2, 1.5), (1.0, 1.0))  # Thickness in the 2CH view over that in the 4CH.
  wall_apex: Range = _both((0.7, 1.2), (0.55, 0.85))
  thickening: Range = _both((0.2, 0.7), (1.0, 1.0))
  # Share of the long axis's shortening by which the apex moves away from the probe; measured.
  apex_retreat: Range = _both((0.0, 0.35), (0.0, 0.0))
  hypokinesia_share: float = _both(0.45, 0.5)  # Probability (regional) where EF is below 55 %.
  hypokinesia_severity: Range = (0.3, 0.8)  # Share of a hypokinetic wall's motion that is lost.
  septal_bulge: Range = _both((0.05, 0.25), (0.05, 0.5))  # Basal, over radius.
  septal_bulge_share: float = _both(0.2, 0.35)  # Its probability.
  septal_bulge_at: Range = (0.7, 0.95)  # Its level over length, from the apex.

  # ---- other chambers
  la_length: Range = _both((28.0, 54.0), (20.0, 75.0))  # Left atrial length, mm.
  la_width: Range = _both((0.75, 1.25), (0.6, 1.9))  # Left atrial half width over LV radius.
  rv_width: Range = _both((0.7, 1.5), (0.4, 2.2))  # Right ventricle and atrium: over LV radius.
  ra_width: Range = _both((0.6, 1.1), (0.5, 1.9))

  # ---- view geometry
  four_chamber_share: float = _both(0.5, 0.65)  # Probability that a streamed clip is a 4CH view.
  apex_depth: Range = _both((15.0, 41.0), (8.0, 46.0))  # Below the probe, mm; measured 29 (18-41).
  # Depth below the mitral plane over left atrial length, so that the sector's depth comes near
  # the measured 140 mm (111-170).
  depth_margin: Range = _both((0.55, 1.35), (0.2, 1.9))
  depth: Range = _both((90.0, 189.0), (85.0, 230.0))  # Limits, mm; CAMUS sizes 292..616 rows.
  # Half opening angles of the sector, degree; CAMUS measured.
  half_angles: tuple[float, ...] = _both(
    (37.3, 37.3, 39.9), (36.0, 37.3, 37.3, 39.9, 43.0, 46.0, 49.0)
  )
  half_angle_sd: float = _both(0.0, 1.5)  # Standard deviation of the half angle, degree.
  # Direction of the LV apex from the probe; long axis against the depth axis; degree (mean, sd).
  apex_direction: tuple[float, float] = _both((-1.5, 5.0), (-2.0, 7.0))
  axis_tilt: tuple[float, float] = _both((11.0, 6.0), (4.0, 11.0))
  # Room kept between the LV contour and the sector's edge, degree; a negative value leaves the
  # ventricle where it falls (transfer).
  sector_margin: float = _both(1.2, -1.0)

  # ---- pulse and beam
  wavelength: float = 0.62  # mm: 1540 m/s at 2.5 MHz.
  # Point spread, axial FWHM mm and lateral FWHM degree; Hergum 2009 order of magnitude.
  axial_fwhm: Range = _both((0.5, 0.8), (0.5, 1.6))
  lateral_fwhm: Range = _both((2.0, 2.5), (1.4, 3.4))
  # Smoothing after detection, axial FWHM mm and lateral FWHM degree: brings the speckle to the
  # measured 1.77 x 2.97 mm (scanners smooth too).
  post_axial: Range = _both((0.7, 1.15), (0.2, 1.9))
  post_lateral: Range = _both((0.6, 1.2), (0.2, 1.6))
  # One-way, dB/cm/MHz (textbook); the TGC undoes it, so that electronic noise grows with depth.
  attenuation: float = 0.5
  tgc_error: Range = _both((-5.0, 5.0), (-9.0, 9.0))  # Over the whole depth, dB.

  # ---- echo levels, dB relative to myocardium unless said otherwise
  # Blood; haze (slow clutter) in the cavities, calibrated; electronic noise at the far end after
  # TGC: each by quality grade.
  blood_db: Graded = _both(((-26.0, -16.0), (-26.0, -16.0), (-24.0, -14.0)), _three(-34.0, -9.0))
  haze_db: Graded = _both(_three(-15.0, -10.0), _three(-34.0, -8.0))
  noise_db: Graded = _both(((-32.0, -24.0), (-28.0, -20.0), (-24.0, -15.0)), _three(-40.0, -12.0))
  background_db: Range = _both((-6.0, 4.0), (-16.0, 2.0))  # Tissue around the heart.
  # Lateral wall, septum and apex; transfer (lateral and apical dropout).
  lateral_db: Range = _both((-5.0, 5.0), (-14.0, 2.0))
  septal_db: Range = _both((0.5, 6.0), (-4.0, 4.0))
  apical_db: Range = _both((-4.0, 3.0), (-9.0, 3.0))
  # Probability that a wall is nearly as dark as blood; transfer.
  dark_wall_share: float = _both(0.06, 0.55)
  # How far such a wall is darkened, as a share of the way to this level above blood, dB.
  dark_wall: Range = (0.4, 1.0)
  dark_wall_db: Range = (6.0, 6.0)
  # Probability that the whole wall fades into its surroundings, by a share of `fading`; transfer.
  fading_share: float = 0.0
  fading: Range = (0.3, 0.8)
  # Probability that the apex of the cavity is as gray as the wall; transfer.
  apex_fill_share: float = 0.0
  pericardium_db: Range = _both((2.0, 12.0), (0.0, 14.0))  # Above its surroundings.
  leaflet_db: Range = _both((2.0, 12.0), (-12.0, 7.0))
  annulus_db: Range = _both((8.0, 20.0), (-2.0, 11.0))
  roof_db: Range = _both((9.0, 22.0), (0.0, 18.0))  # Behind the atria, above its surroundings.
  streak_db: Range = _both((2.0, 20.0), (-8.0, 16.0))
  papillary_db: Range = _both((-9.0, 0.0), (-14.0, 3.0))  # Papillary muscles; transfer.
  heterogeneity_db: Range = _both((1.5, 3.5), (1.0, 4.5))  # Standard deviation (slow, in tissue).
  # Patches of 10-30 mm in the tissue around the heart, dark ones as large as a chamber: standard
  # deviation, dB; transfer.
  patches_db: Range = (0.0, 0.0)
  # Number of shadow / dropout wedges at most, and their depth by quality grade.
  max_shadows: int = _both(3, 4)
  shadow_db: Graded = _both(((0.0, 5.0), (0.0, 7.0), (1.0, 10.0)), _three(0.0, 20.0))
  haze_side_db: Range = _both((0.0, 3.0), (0.0, 8.0))  # Side-to-side difference of the haze.
  haze_patches_db: Range = (1.5, 1.5)  # Standard deviation of its patches.
  # Depth, over that of the sector, at which the haze is 30 dB lower than at the probe; and the
  # probability of a fan of haze along some beams, up to 0 dB. Transfer.
  haze_reach: Range = (1e3, 1e3)
  fan_share: float = 0.0
  near_field_db: Range = _both((4.0, 16.0), (1.0, 16.0))  # Clutter at the probe.
  # Endocardial transition: the wall starts near the level of blood at the label's border and rises
  # outside of it, over these shares of its thickness at septum, lateral wall and apex; how far
  # above blood it starts, dB; the share of the lateral wall that does not take part. Measured.
  ramp_septal: Range = _both((0.0, 0.18), (0.0, 0.0))
  ramp_lateral: Range = _both((0.25, 0.95), (0.0, 0.0))
  ramp_apical: Range = _both((0.3, 0.95), (0.0, 0.0))
  ramp_db: Range = (0.0, 5.0)
  # At ES: these shares over those at ED, and levels of the trabeculae above those at ED, dB.
  ramp_systole: Range = (0.9, 1.8)
  rim_systole: Range = (2.0, 8.0)
  ramp_keep: Range = _both((0.0, 0.4), (0.1, 0.7))
  # Trabeculae and papillary muscles that close up at ES and are labeled as wall: probability, and
  # the share of its thickness, all around, that is then little brighter than blood (seen in
  # frames).
  deep_share: float = _both(0.65, 0.0)
  deep_ramp: Range = (0.3, 0.85)
  # Trabeculae inside the label: probability, level above blood at the border in dB, reach in mm.
  rim_share: float = _both(0.9, 0.0)
  rim_db: Range = _both((4.0, 14.0), (6.0, 16.0))
  rim_reach: Range = (1.5, 7.0)
  # At the apex: levels above those elsewhere, dB, and the reach over that elsewhere.
  rim_apical_db: Range = _both((-6.0, 8.0), (0.0, 0.0))
  rim_apical_reach: Range = _both((1.5, 4.0), (2.0, 2.0))
  rim_septal: Range = (0.9, 0.9)  # Their level at the septum over that at the other walls.
  systolic_db: Range = _both((-0.5, 2.5), (0.0, 0.0))  # Gain of the muscle from ED to ES; measured.
  atrium_db: Range = _both((2.0, 22.0), (-60.0, -60.0))  # Of the left atrium above blood.
  # Haze over the apex: probability, level at the apex dB, fall dB/mm from there into the cavity.
  apex_haze_share: float = _both(0.5, 0.0)
  apex_haze_db: Range = (-14.0, 4.0)
  apex_haze_fall: Range = (0.1, 0.45)
  # Distractors, with their probabilities: reverberation arcs at constant range across the cavity;
  # bands and steps of the depth gain.
  arc_share: float = _both(0.3, 0.0)
  band_share: float = _both(0.5, 0.0)
  step_share: float = _both(0.25, 0.0)
  # Gain that bends with depth and differs from side to side, dB; the probability that the last
  # tenth of the depth is brighter. Transfer.
  gain_curve_db: Range = (0.0, 0.0)
  far_band_share: float = 0.0

  # ---- display
  # Dynamic range, dB, by quality grade; 50-60 dB on CAMUS-like scanners.
  dynamic_range: Graded = _both(((52.0, 60.0), (50.0, 58.0), (50.0, 56.0)), _three(36.0, 70.0))
  # Gray level of myocardium at 0 dB; measured shell 108 (78-129).
  myocardium_gray: Range = _both((92.0, 142.0), (70.0, 165.0))
  # Exponent on the normalised gray level (1 = linear), which stretches the bright end towards
  # the measured 99th percentile.
  gamma: Range = _both((1.6, 2.1), (0.7, 1.7))

  # ---- time
  # Decorrelation times, s: tissue, calibrated to .93/.84/.66; haze; blood (mostly redrawn each
  # frame), design.
  tissue_time: Range = _both((0.8, 2.4), (0.08, 0.8))
  haze_time: Range = _both((1.0, 3.0), (0.1, 1.2))
  blood_time: Range = _both((0.008, 0.02), (0.005, 0.06))
  persistence: Range = _both((0.52, 0.74), (0.0, 0.6))  # Weight of the previous displayed frame.
  # Turn of the whole heart from ED to ES, degree: standard deviation and (measured tilts) mean.
  rocking: float = _both(1.2, 2.5)
  rocking_mean: float = _both(2.0, 0.0)

  # ---- streamed clips only (`stream.random_clips`)
  ed_to_es_share: float = 0.7  # Of clips; the others show any part of one to two beats.
  # Share of clips with CAMUS geometry; the others are EchoNet-like: off-centre sector, marks
  # outside of it. Photometric randomisation on (gamma, gain, blur, wedge clutter, JPEG-like
  # coarsening, marks). Both transfer.
  camus_geometry_share: float = _both(1.0, 0.5)
  photometric: bool = _both(False, True)

  @classmethod
  def camus(cls) -> 'PhantomConfig':
    """Returns the default, calibrated on measurements of CAMUS frames."""
    return cls()

  @classmethod
  def randomized(cls) -> 'PhantomConfig':
    """Returns wide ranges for training networks for real clips."""
    return cls(**{f.name: f.metadata['randomized'] for f in dataclasses.fields(cls) if f.metadata})

  @classmethod
  def transfer(cls) -> 'PhantomConfig':
    """Returns the wide ranges of the default model, around what `camus` is fitted to.

    Hearts of all proportions, wherever they fall in the sector; walls as dark as blood, or fading
    into surroundings with dark patches; haze anywhere; bands, steps and arcs across the image;
    atria black or as bright as muscle; tones from nearly black to nearly white. The ablation of the
    method (docs/ablation.md) was measured on `randomized`.
    """
    return dataclasses.replace(
      cls.randomized(),
      groups=WIDE_GROUPS,
      size_skew=1.6,
      widest=(0.52, 0.95),
      roundness=(1.75, 3.0),
      apical_narrowing=(-0.3, 0.3),
      septal_bulge=(0.1, 0.75),
      septal_bulge_share=0.45,
      septal_bulge_at=(0.45, 0.95),
      shortening=(0.1, 0.4),
      wall_scale=(1.0, 1.35),
      wall_2ch=(1.0, 1.35),
      wall_apex=(0.65, 1.7),
      thickening=(0.2, 0.9),
      apex_retreat=(0.0, 0.5),
      apex_depth=(10.0, 52.0),
      axis_tilt=(10.0, 11.0),
      rocking_mean=2.0,
      la_length=(18.0, 66.0),
      la_width=(0.55, 1.7),
      depth_margin=(0.05, 1.7),
      axial_fwhm=(0.6, 1.7),
      post_axial=(0.2, 1.0),
      attenuation=0.15,
      blood_db=_three(-36.0, -11.0),
      haze_db=_three(-38.0, -14.0),
      haze_reach=(0.3, 1.6),
      haze_patches_db=(0.0, 6.0),
      fan_share=0.35,
      noise_db=_three(-42.0, -8.0),
      background_db=(-16.0, 2.0),
      patches_db=(2.0, 7.0),
      septal_db=(-3.0, 4.0),
      lateral_db=(-14.0, 2.0),
      apical_db=(-8.0, 3.0),
      dark_wall_share=0.55,
      dark_wall=(1.0, 1.0),
      dark_wall_db=(1.5, 9.0),
      fading_share=0.2,
      apex_fill_share=0.2,
      ramp_septal=(0.0, 0.3),
      ramp_lateral=(0.05, 0.8),
      ramp_apical=(0.1, 0.85),
      ramp_systole=(0.9, 1.5),
      rim_share=0.7,
      rim_db=(0.0, 12.0),
      rim_reach=(1.0, 6.0),
      rim_septal=(0.0, 0.8),
      rim_apical_db=(-4.0, 6.0),
      rim_apical_reach=(1.0, 3.0),
      rim_systole=(0.0, 5.0),
      deep_share=0.6,
      systolic_db=(0.0, 3.0),
      atrium_db=(-14.0, 18.0),
      apex_haze_share=0.65,
      apex_haze_db=(-34.0, -6.0),
      apex_haze_fall=(0.12, 0.6),
      arc_share=0.4,
      band_share=0.55,
      step_share=0.25,
      gain_curve_db=(-6.0, 6.0),
      far_band_share=0.5,
      dynamic_range=_three(28.0, 58.0),
      myocardium_gray=(70.0, 205.0),
      gamma=(0.65, 1.6),
      ed_to_es_share=0.35,
    )

  def without(self, part: str) -> 'PhantomConfig':
    """Returns the ranges without one of `PARTS`, for ablations."""
    if part not in PARTS:
      raise ValueError(f'part {part!r} is unknown; choose one of {", ".join(PARTS)}')
    return dataclasses.replace(self, **PARTS[part])

  @classmethod
  def named(cls, name: str) -> 'PhantomConfig':
    """Returns the preset `name`; the error lists the choices."""
    presets = {'camus': cls.camus, 'randomized': cls.randomized, 'transfer': cls.transfer}
    if name not in presets:
      raise ValueError(f'phantom preset {name!r} is unknown; choose one of {", ".join(presets)}')
    return presets[name]()


# What `without` leaves out, with the fields that do so.
PARTS = {
  'transition': dict.fromkeys(('ramp_septal', 'ramp_lateral', 'ramp_apical'), (0.0, 0.0))
  | {'rim_share': 0.0, 'deep_share': 0.0},
  'thickness': dict.fromkeys(('wall_scale', 'wall_2ch', 'thickening'), (1.0, 1.0))
  | {'wall_apex': (0.55, 0.85)},
  'haze': dict.fromkeys(('apex_haze_share', 'apex_fill_share', 'fan_share'), 0.0),
  'distractors': dict.fromkeys(('arc_share', 'band_share', 'step_share', 'far_band_share'), 0.0)
  | dict.fromkeys(('patches_db', 'gain_curve_db'), (0.0, 0.0)),
  'dark_walls': {'dark_wall_share': 0.0, 'fading_share': 0.0},
}
