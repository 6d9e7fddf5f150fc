"""The trials are plain functions, so that the campaign makes them too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
