import sys
from pathlib import Path

import pytest

from transfer import cli
from transfer.bench.detect import OURS, THEIRS

ROOT = Path(__file__).parents[2]


def test_the_verb_finds_the_same_faces_in_both(tmp_path, monkeypatch, capsys):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "default.yaml").write_bytes((ROOT / "params" / "default.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)

    def transfer(*arguments):
        values = ["--dataset", "demo_rafdb", "--set", "dataset_definitions.demo_rafdb.synthetic_scale=0.1"]
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments, *values])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    bench = ["bench", "detect", "--images", "12", "--rounds", "1", "--set", "faces.threads=1"]
    assert transfer(*bench)[0] == 1  # no archive yet
    transfer("synthesize")
    code, out, _ = transfer(*bench)
    assert not code and "12 images, 1 cores" in out
    rows = {line[:34].strip(): line[34:].split() for line in out.splitlines()[2:]}
    assert set(rows) == {OURS, *THEIRS}
    assert sum(ratio == "1.000" for _, ratio, _ in rows.values()) >= 1
    assert float(rows[OURS][2]) >= float(rows[next(iter(THEIRS))][2]) >= 0.8
