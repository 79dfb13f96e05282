"""Files that are complete or absent, and JSON."""

import json
import math

import pytest
import torch

from holdfast.base import files
from holdfast.base.errors import UserError


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"

    def fail():
        with files.atomic_write(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with files.atomic_write(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "whole"


def test_tensors_that_are_damaged_or_changed_are_refused(tmp_path):
    path = tmp_path / "l.safetensors"
    files.save_tensors(path, {"z": torch.zeros(3)}, {"key": "a"})
    tensors, metadata = files.load_tensors(path)
    assert torch.equal(tensors["z"], torch.zeros(3))
    files.write_tensors(path, {"z": torch.ones(3)}, metadata)
    with pytest.raises(UserError, match="its content has changed: delete it"):
        files.load_tensors(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read"):
        files.load_tensors(path)


def test_json_has_no_bare_infinity(tmp_path):
    files.write_json(tmp_path / "m.json", {"a": math.inf, "b": [{"c": math.inf, "d": 1.5}]})
    text = (tmp_path / "m.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text) == {"a": "inf", "b": [{"c": "inf", "d": 1.5}]}
