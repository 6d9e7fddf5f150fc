import re
from pathlib import Path

import pytest
import yaml

from transfer.params.read import schema_text
from transfer.sources import table as sources
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table():
    return sources.load(ROOT / sources.SOURCES)


@pytest.fixture
def wrong(tmp_path):
    """The message about the real table after a change of it."""

    def load(change):
        content = yaml.safe_load((ROOT / sources.SOURCES).read_text())
        change(content["sources"])
        file = tmp_path / "sources.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        with pytest.raises(UserError) as error:
            sources.load(file)
        assert "\n" not in str(error.value)
        return str(error.value)

    return load


def test_the_table_has_the_sources_that_other_parts_name(table):
    kinds = {name: entry.kind for name, entry in table.items()}
    assert {name for name, kind in kinds.items() if kind == "weights"} == {
        "ir50_ms1m",
        "vit_small_p16_224",
        "transfer_paddle",
    }
    assert {name for name, kind in kinds.items() if kind == "list"} == {"ran_rafdb", "ran_ferplus", "ran_affectnet"}
    assert {"rafdb", "fer2013", "ferplus_votes", "affectnet", "affectnet_reduced"} <= set(kinds)
    assert sum(len(table[name].files) for name in ("ran_rafdb", "ran_ferplus", "ran_affectnet")) == 11
    assert table["vit_small_p16_224"].files[0].path == "weights/vit_small_p16_224-15ec54c9.pth"


def test_addresses_are_pinned_and_belong_to_their_files(table):
    for entry in table.values():
        for file in entry.files:
            if file.url is None:
                continue
            assert file.url.rpartition("/")[2] == file.path.rpartition("/")[2]
            # A branch moves; a commit or a release file does not.
            assert re.search(r"/[0-9a-f]{40}/|/releases/download/", file.url)
            if file.sha256_prefix:
                assert f"-{file.sha256_prefix}." in file.path


def test_lists_lie_where_their_parsers_look(table):
    folders = {"ran_rafdb": "RAF_DB_dir", "ran_ferplus": "FERplus_dir", "ran_affectnet": "AffectNet_dir"}
    for name, folder in folders.items():
        assert all(file.path.startswith(f"challenge_lists/{folder}/") for file in table[name].files)
        assert all(file.url.endswith(file.path.removeprefix("challenge_lists/")) for file in table[name].files)


def test_archives_are_those_of_the_datasets(table):
    definitions = yaml.safe_load((ROOT / "params/default.yaml").read_text())["dataset_definitions"]
    archives = {definition["archive"] for definition in definitions.values() if "synthetic" not in definition}
    assert archives <= {entry.archive for entry in table.values()}


def test_what_is_asked_for_says_where_it_goes(table):
    for entry in table.values():
        if entry.how != "download":
            assert "RAW_DIR/" + (entry.files[0].path if entry.files else entry.archive) in entry.ask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["rafdb"].update(licens="x"), "sources.rafdb.licens: unknown key; allowed: archive, ask, "),
        (
            lambda s: s["ran_rafdb"]["files"][1].update(hash="x"),
            "files.1.hash: unknown key; allowed: at_most, md5, ",
        ),
        (lambda s: s["rafdb"].pop("licence"), "sources.rafdb.licence: missing"),
        (lambda s: s["rafdb"].update(how="ftp"), "sources.rafdb.how: should be 'download', 'form', "),
        (
            lambda s: s["rafdb"].update(how="download"),
            "sources.rafdb: how: download needs files with a url or package each",
        ),
        (lambda s: s["rafdb"].pop("ask"), "sources.rafdb: how: form needs ask"),
        (lambda s: s["rafdb"].pop("archive"), "sources.rafdb: needs files, or the archive"),
        (lambda s: s["vit_small_p16_224"].update(how="manual"), "how: manual has no url or package in its files"),
        (lambda s: s["ran_rafdb"]["files"][0].update(url="http://x.org/a"), "sources.ran_rafdb.files.0.url: "),
        (lambda s: s["ran_rafdb"]["files"][0].update(sha256="12"), "sources.ran_rafdb.files.0.sha256: "),
        (lambda s: s["ran_rafdb"]["files"][0].update(path="../a"), "expected a plain path below raw_dir"),
        (lambda s: s["ran_rafdb"]["files"][0].update(path="/a"), "expected a plain path below raw_dir"),
        (
            lambda s: s["ir50_ms1m"]["files"][0].update(path="RAF-DB.zip"),
            "sources.ir50_ms1m.files: RAF-DB.zip belongs to rafdb_apvit already",
        ),
    ],
)
def test_a_mistake_in_the_table_is_one_line_with_its_place(wrong, change, message):
    assert message in wrong(change)
    assert re.search(r"sources\.yaml:\d+: sources\.", wrong(change))


def test_a_source_is_found_by_its_name_or_by_a_file(table):
    assert sources.find("ran_rafdb", table) == ("ran_rafdb", table["ran_rafdb"], None)
    file = table["ran_ferplus"].files[2]
    assert sources.find(file.path, table) == ("ran_ferplus", table["ran_ferplus"], file)
    assert sources.get("ran_rafdb", ROOT / sources.SOURCES) == table["ran_rafdb"]
    for unknown in (lambda: sources.find("vit", table), lambda: sources.get("vit", ROOT / sources.SOURCES)):
        with pytest.raises(UserError, match="no source 'vit'; allowed: rafdb, rafdb_apvit, "):
            unknown()


@pytest.mark.parametrize("archive", ["ferplus", "ferplus.tar.gz"])
def test_where_to_get_names_all_that_an_archive_is_made_of(table, archive):
    line = sources.where_to_get(archive, table)
    assert "run `transfer fetch fer2013 ferplus_votes` for instructions" in line
    assert table["fer2013"].page in line and "\n" not in line
    assert sources.where_to_get("holiday_faces", table) == ""


def test_schema_is_up_to_date():
    assert (ROOT / sources.SCHEMA).read_text() == schema_text(sources.Sources, partial=False)
