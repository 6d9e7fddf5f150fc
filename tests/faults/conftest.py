"""The campaign makes the same trials, more of them; Hypothesis tries little here, and much with its nightly profile."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=60, **COMMON)
settings.register_profile("nightly", max_examples=5000, **COMMON)
settings.load_profile("short")
