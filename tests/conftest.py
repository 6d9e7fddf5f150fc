"""How pytest-xdist shares the tests out among its workers."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Keep a file's tests, which share fixtures, on one worker, and those that share a finished workflow as well.

    The workflow's tests take longest, so they start first.
    """
    for item in items:
        workflow = item.path.parent.name == "workflow"
        item.add_marker(pytest.mark.xdist_group("workflow" if workflow else item.path.stem))
    items.sort(key=lambda item: item.path.parent.name != "workflow")
