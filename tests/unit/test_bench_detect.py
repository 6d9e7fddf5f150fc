import json
import sys
from pathlib import Path

import pytest

from transfer import cli
from transfer.bench.detect import OURS, SINGLE

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
    code, out, _ = transfer(*bench, "--json")
    result = json.loads(out)
    assert not code
    assert (result["images"], result["cores"]) == (12, 1)
    assert result["ratio_to_own_batches"][result["own_batches"]] == 1
    assert len(result["images_per_second"]) == 5 and {OURS, SINGLE} <= set(result["images_per_second"])
    assert result["found"][OURS] >= result["found"][SINGLE] >= 0.8
    code, out, _ = transfer(*bench)
    assert not code and "image by image" in out and "with a face" in out
