"""Ranges from which synthetic patients are drawn, with unit and source.

A pair `(low, high)` is sampled uniformly unless its comment says otherwise.
"Paper" sources are Hergum 2009 and Gao 2009 (COLE) for the beam-space image
model; "measured" means measured on real CAMUS frames; "ours" is this
project's choice; "transfer" are ranges that helped a network trained on
synthetic stills to segment real clips.
"""

import dataclasses

Range = tuple[float, float]

# Quality grades in the order of `PhantomConfig.quality_share`.
QUALITIES = ('Good', 'Medium', 'Poor')


@dataclasses.dataclass(frozen=True)
class Group:
  """One clinical group of patients.

  Attributes:
    name: what reports call it.
    share: probability, dimensionless; shares of all groups sum to 1.
    edv_ml: end-diastolic volume, ml.
    ef_percent: ejection fraction, percent.
    wall_mm: end-diastolic wall thickness, mm.
    length_mm: end-diastolic long axis of the cavity, mm.
  """

  name: str
  share: float
  edv_ml: Range
  ef_percent: Range
  wall_mm: Range
  length_mm: Range


GROUPS = (
  Group('normal', 0.20, (60, 140), (55, 70), (7, 10), (65, 88)),
  Group('mild', 0.31, (80, 160), (45, 55), (8, 11), (72, 92)),
  Group('reduced', 0.40, (120, 280), (15, 45), (7, 10), (78, 100)),
  Group('hypertrophic', 0.09, (60, 110), (60, 75), (13, 20), (65, 85)),
)


@dataclasses.dataclass(frozen=True)
class PhantomConfig:
  """Everything a synthetic patient is drawn from (immutable, hashable).

  Use `PhantomConfig.camus()` for the calibrated default and
  `PhantomConfig.randomized()` for domain randomisation.
  """

  # ---- people
  # Clinical groups; shares and ranges: clinical literature, fixed by design.
  groups: tuple[Group, ...] = GROUPS
  # Good / Medium / Poor, dimensionless; CAMUS paper.
  quality_share: tuple[float, float, float] = (0.35, 0.46, 0.19)
  # Exponent on the uniform draw of volume and length, dimensionless; above 1
  # leans to the small end of each group's range (measured areas); ours.
  size_skew: float = 4.5
  heart_rate: Range = (52.0, 95.0)  # Heart rate, beats per minute; ours.
  # Frames per second of the recording; CAMUS order of magnitude.
  fps: Range = (40.0, 60.0)
  # Frames from ED to ES, inclusive; CAMUS half sequences.
  num_frames: tuple[int, int] = (10, 30)

  # ---- left ventricle
  # Distance apex to widest level over length, dimensionless; design.
  widest: Range = (0.60, 0.70)
  kappa: Range = (0.92, 1.08)  # R_2CH over R_4CH, dimensionless; design.
  # Midline bend over length in each view, dimensionless; ours.
  bend: Range = (-0.025, 0.05)
  # Slope of the mitral plane against the long axis, dimensionless; ours.
  mitral_tilt: Range = (-0.06, 0.06)
  # Relative standard deviation of wall undulation, dimensionless; ours.
  undulation: float = 0.03
  # Long-axis shortening over ejection fraction, dimensionless; ours.
  shortening: Range = (0.24, 0.36)
  # How much more the apex narrows at ES, dimensionless; ours.
  apical_narrowing: Range = (0.0, 0.25)
  # Share of the annulus' radial motion that is missing, dimensionless; ours.
  annulus_stiffness: Range = (0.3, 0.7)
  # Probability of regional hypokinesia where EF is below 55 %; ours.
  hypokinesia_share: float = 0.45
  # Share of a hypokinetic wall's motion that is lost, dimensionless; ours.
  hypokinesia_severity: Range = (0.3, 0.8)
  # Basal septal bulge over radius, dimensionless, and its probability; ours.
  septal_bulge: Range = (0.05, 0.25)
  septal_bulge_share: float = 0.2

  # ---- other chambers
  # Left atrial length, mm, and half width over LV radius; ours.
  la_length: Range = (32.0, 56.0)
  la_width: Range = (0.75, 1.25)
  # Right ventricle and atrium: width over LV radius; ours.
  rv_width: Range = (0.7, 1.5)
  ra_width: Range = (0.6, 1.1)

  # ---- view geometry
  # Probability that a streamed clip is a four-chamber view; ours.
  four_chamber_share: float = 0.5
  # Depth of the LV apex under the probe, mm; measured 29 (18-41).
  apex_depth: Range = (15.0, 41.0)
  # Depth below the mitral plane over left atrial length; ours, so that the
  # sector's depth comes near the measured 140 mm (111-170).
  depth_margin: Range = (0.55, 1.35)
  # Smallest and largest sector depth, mm; CAMUS sizes 292..616 rows.
  depth: Range = (90.0, 189.0)
  # Half opening angles of the sector, degree; CAMUS measured.
  half_angles: tuple[float, ...] = (37.3, 37.3, 39.9)
  # Jitter of the half angle, degree (standard deviation); ours.
  half_angle_sd: float = 0.0
  # Direction of the LV apex from the probe, degree (mean, sd); ours.
  apex_direction: tuple[float, float] = (0.0, 5.0)
  # Tilt of the long axis against the depth axis, degree (mean, sd); ours.
  axis_tilt: tuple[float, float] = (2.0, 6.0)
  # Room kept between the LV contour and the sector's edge, degree; a
  # negative value leaves the ventricle where it falls (transfer).
  sector_margin: float = 1.2

  # ---- pulse and beam
  # Wavelength, mm: 1540 m/s at 2.5 MHz.
  wavelength: float = 0.62
  # Axial point spread, FWHM mm; Hergum 2009 order of magnitude.
  axial_fwhm: Range = (0.5, 0.8)
  # Lateral point spread, FWHM degree; Hergum 2009 order of magnitude.
  lateral_fwhm: Range = (1.8, 2.2)
  # Smoothing after detection, axial FWHM mm and lateral FWHM degree: brings
  # the speckle to the measured 1.77 x 2.97 mm (scanners smooth too); ours.
  post_axial: Range = (0.7, 1.15)
  post_lateral: Range = (0.6, 1.2)
  # One-way attenuation, dB/cm/MHz; the TGC undoes it, so that electronic
  # noise grows with depth; textbook.
  attenuation: float = 0.5
  # Error of the TGC over the whole depth, dB; ours.
  tgc_error: Range = (-5.0, 5.0)

  # ---- echo levels, dB relative to myocardium unless said otherwise
  # Blood, by quality grade Good, Medium, Poor; ours, after calibration.
  blood_db: tuple[Range, Range, Range] = ((-26.0, -16.0), (-26.0, -16.0), (-24.0, -14.0))
  # Haze (slow clutter) in the cavities, by quality grade; calibrated.
  haze_db: tuple[Range, Range, Range] = ((-8.2, -7.2), (-7.8, -6.8), (-7.3, -6.2))
  # Electronic noise at the far end after TGC, by quality grade; ours.
  noise_db: tuple[Range, Range, Range] = ((-32.0, -24.0), (-28.0, -20.0), (-24.0, -15.0))
  background_db: Range = (-3.0, 1.0)  # Tissue around the heart; ours.
  # Lateral wall, septum and apex; transfer (lateral and apical dropout).
  lateral_db: Range = (-3.0, 1.0)
  septal_db: Range = (-1.5, 2.0)
  apical_db: Range = (-3.0, 2.0)
  # Probability that a wall is nearly as dark as blood; transfer.
  dark_wall_share: float = 0.06
  # How dark such a wall is at ED, as a share of what it is at ES; transfer.
  dark_wall_at_ed: Range = (1.0, 1.0)
  # Probability that the apex of the cavity is as gray as the wall; transfer.
  apex_fill_share: float = 0.0
  # Pericardium above its surroundings, dB; ours.
  pericardium_db: Range = (8.0, 20.0)
  # Leaflets and annulus; ours.
  leaflet_db: Range = (2.0, 12.0)
  annulus_db: Range = (8.0, 20.0)
  # Tissue behind the atria above its surroundings, and streaks; ours.
  roof_db: Range = (9.0, 22.0)
  streak_db: Range = (2.0, 20.0)
  papillary_db: Range = (-9.0, 0.0)  # Papillary muscles; transfer.
  # Standard deviation of slow tissue heterogeneity, dB; ours.
  heterogeneity_db: Range = (1.5, 3.5)
  # Number of shadow / dropout wedges at most, and their depth, dB, by grade.
  max_shadows: int = 3
  shadow_db: tuple[Range, Range, Range] = ((0.0, 5.0), (0.0, 7.0), (1.0, 10.0))
  # Side-to-side difference of the haze, dB; ours.
  haze_side_db: Range = (0.0, 3.0)
  # Near-field clutter at the probe, dB; ours.
  near_field_db: Range = (8.0, 20.0)

  # ---- display
  # Dynamic range, dB, by quality grade; 50-60 dB on CAMUS-like scanners.
  dynamic_range: tuple[Range, Range, Range] = ((52.0, 60.0), (50.0, 58.0), (50.0, 56.0))
  # Gray level of myocardium at 0 dB; measured shell 108 (78-129).
  myocardium_gray: Range = (92.0, 142.0)
  # Exponent on the normalised gray level (1 = linear), which stretches the
  # bright end towards the measured 99th percentile; ours.
  gamma: Range = (1.6, 2.1)

  # ---- time
  # Decorrelation time of tissue, s; calibrated to .93/.84/.66.
  tissue_time: Range = (0.8, 2.4)
  haze_time: Range = (1.0, 3.0)  # Decorrelation time of haze, s; ours.
  # Decorrelation time of blood, s (mostly redrawn each frame); design.
  blood_time: Range = (0.008, 0.02)
  # Weight of the previous displayed frame (persistence); scanner setting.
  persistence: Range = (0.35, 0.6)
  # Whole-heart rocking from ED to ES, degree (standard deviation); ours.
  rocking: float = 1.2

  # ---- streamed clips only (`stream.random_clips`)
  # Share of clips that run from ED to ES; the others show any part of one
  # to two beats; ours.
  ed_to_es_share: float = 0.7
  # Share of clips with CAMUS geometry; the others are EchoNet-like:
  # off-centre sector, marks outside of it; transfer.
  camus_geometry_share: float = 1.0
  # Photometric randomisation on (gamma, gain, blur, wedge clutter, JPEG-like
  # coarsening, marks); transfer.
  photometric: bool = False

  @classmethod
  def camus(cls) -> 'PhantomConfig':
    """Returns the default, calibrated on measurements of CAMUS frames."""
    return cls()

  @classmethod
  def randomized(cls) -> 'PhantomConfig':
    """Returns wide ranges for training networks for real clips."""
    three = lambda low, high: ((low, high),) * 3  # noqa: E731
    return cls(
      size_skew=1.3,
      widest=(0.48, 0.76),
      kappa=(0.85, 1.15),
      bend=(-0.05, 0.08),
      mitral_tilt=(-0.16, 0.16),
      undulation=0.055,
      shortening=(0.1, 0.4),
      apical_narrowing=(-0.1, 0.45),
      annulus_stiffness=(0.1, 0.9),
      hypokinesia_share=0.5,
      septal_bulge=(0.05, 0.5),
      septal_bulge_share=0.35,
      la_length=(20.0, 75.0),
      la_width=(0.6, 1.9),
      rv_width=(0.4, 2.2),
      ra_width=(0.5, 1.9),
      four_chamber_share=0.65,
      apex_depth=(8.0, 46.0),
      depth_margin=(0.2, 1.9),
      depth=(85.0, 230.0),
      half_angles=(36.0, 37.3, 37.3, 39.9, 43.0, 46.0, 49.0),
      half_angle_sd=1.5,
      apex_direction=(-2.0, 7.0),
      axis_tilt=(4.0, 11.0),
      sector_margin=-1.0,
      axial_fwhm=(0.5, 1.6),
      lateral_fwhm=(1.4, 3.4),
      post_axial=(0.2, 1.9),
      post_lateral=(0.2, 1.6),
      tgc_error=(-9.0, 9.0),
      blood_db=three(-34.0, -9.0),
      haze_db=three(-34.0, -8.0),
      haze_side_db=(0.0, 8.0),
      noise_db=three(-40.0, -12.0),
      background_db=(-16.0, 2.0),
      lateral_db=(-14.0, 2.0),
      septal_db=(-4.0, 4.0),
      apical_db=(-9.0, 3.0),
      dark_wall_share=0.55,
      pericardium_db=(0.0, 14.0),
      leaflet_db=(-12.0, 7.0),
      annulus_db=(-2.0, 11.0),
      papillary_db=(-14.0, 3.0),
      roof_db=(0.0, 18.0),
      streak_db=(-8.0, 16.0),
      heterogeneity_db=(1.0, 4.5),
      max_shadows=4,
      shadow_db=three(0.0, 20.0),
      near_field_db=(1.0, 16.0),
      dynamic_range=three(36.0, 70.0),
      myocardium_gray=(70.0, 165.0),
      gamma=(0.7, 1.7),
      tissue_time=(0.08, 0.8),
      haze_time=(0.1, 1.2),
      blood_time=(0.005, 0.06),
      persistence=(0.0, 0.6),
      rocking=2.5,
      camus_geometry_share=0.5,
      photometric=True,
    )

  @classmethod
  def transfer(cls) -> 'PhantomConfig':
    """Returns the default model's ranges: `randomized`, tuned on real tones.

    Brighter, as real frames are: the median gray level of the cavity was 40 and
    of the muscle 72, against 69 and 108 measured on CAMUS. More of diastole,
    when the mitral valve is open. Walls that darken towards ES, and apices that
    hide their cavity. The ablation was measured on `randomized`.
    """
    return dataclasses.replace(
      cls.randomized(),
      myocardium_gray=(75.0, 200.0),
      gamma=(0.6, 1.5),
      ed_to_es_share=0.35,
      dark_wall_at_ed=(0.2, 1.0),
      apex_fill_share=0.3,
    )

  @classmethod
  def named(cls, name: str) -> 'PhantomConfig':
    """Returns the preset `name`; the error lists the choices."""
    presets = {'camus': cls.camus, 'randomized': cls.randomized, 'transfer': cls.transfer}
    if name not in presets:
      raise ValueError(f'phantom preset {name!r} is unknown; choose one of {", ".join(presets)}')
    return presets[name]()
