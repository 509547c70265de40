"""One model of every family, for all tests of this folder."""

from functools import cache

import pytest

from .models import FAMILIES


@pytest.fixture(scope="session")
def patcher():
    """Makes the model of a family, once."""
    return cache(lambda name: FAMILIES[name].build())
