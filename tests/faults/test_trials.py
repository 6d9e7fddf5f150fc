"""A few trials of each kind; ``make faults`` makes all of them."""

import subprocess
from pathlib import Path

import pytest
import trials


@pytest.mark.workflow
def test_kills_of_the_workflow(tmp_path):
    result = trials.kills(tmp_path / "checkout", in_trainings=2, seed=0)
    assert result.losses == [] and result.trials >= 2


@pytest.mark.parametrize("verb", ["index", "sample"])
def test_full_disks(tmp_path, verb):
    try:
        with trials.small_disk(tmp_path / "try"):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    only = tuple(list(trials.VERBS)[: list(trials.VERBS).index(verb) + 1])
    result = trials.full_disks(tmp_path, 1, 0, only=(verb,), steps=only)
    assert result.losses == [] and result.trials == 1


def test_hostile_parameter_files(tmp_path, monkeypatch):
    names = ("merges that unfold", "code for Snakemake's reader", "many hexadecimal digits")
    monkeypatch.setattr(trials, "PARAMETERS", {name: trials.PARAMETERS[name] for name in names})
    assert trials.parameters(tmp_path / "checkout").losses == []


def test_broken_servers(tmp_path):
    result = trials.servers(tmp_path, 5, seed=0)
    assert result.losses == [] and result.trials > 25


def test_the_page_has_a_place_for_the_table():
    import campaign

    page = Path(campaign.PAGE).read_text()
    assert page.count(campaign.BEGIN) == page.count(campaign.END) == 1
