"""Whole processes are compared with this one."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_for_users(compiled_as_for_users):
    """For every test of this folder."""
