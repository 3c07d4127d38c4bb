"""Makes the scripts of launch/ importable."""

from pathlib import Path
import sys

LAUNCH = Path(__file__).parents[2] / 'launch'
if str(LAUNCH) not in sys.path:
  sys.path.append(str(LAUNCH))
