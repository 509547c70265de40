"""The core's lane: no host, every test deterministic."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # `import oracle`, `import cases`, in every import mode

settings.register_profile("core", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("core")
