"""Makes the helpers of this folder and launch/ importable."""

from pathlib import Path
import sys

for folder in (Path(__file__).parent, Path(__file__).parents[2] / 'launch'):
  if str(folder) not in sys.path:
    sys.path.append(str(folder))
