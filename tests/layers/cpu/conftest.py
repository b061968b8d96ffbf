"""The formulations for the CPU are tested as they are compiled for users."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_for_users(compiled_as_for_users):
    """For every test of this folder."""
