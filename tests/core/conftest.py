"""The core's lane: no host, one thread, every test deterministic."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # `import oracle`, `import cases`, in every import mode

settings.register_profile("core", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("core")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
