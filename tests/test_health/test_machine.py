"""Versions, devices and free space."""

import json
import shutil
from collections import namedtuple

import pytest

import tame.health.machine as machine
from tame.health.doctor import doctor
from tame.health.findings import Diagnosis, Finding

Usage = namedtuple("Usage", "total used free")


def by_about(findings):
    return {each.about: each for each in findings}


def test_versions_that_are_not_enough(monkeypatch):
    required = ["torch>=99", "pillow>=1", "nowhere-at-all>=2", "shtab>=99; extra == 'completion'"]
    monkeypatch.setattr(machine, "requires", lambda _: required)
    monkeypatch.setattr(
        machine, "version", lambda name, known=machine.version: {"pillow": "10.2"}.get(name) or known(name)
    )
    found = by_about(machine.check_versions())
    assert (found["torch"].state, found["torch"].advice) == ("problem", "pip install 'torch>=99'")
    assert found["torch"].found.startswith("expected >=99, got 2")
    assert found["nowhere-at-all"].found == "it is not installed"
    assert (found["pillow"].found, found["pillow"].advice) == (
        "expected >=10.3, got 10.2",
        "pip install 'pillow>=10.3'",
    )
    assert "shtab" not in found
    assert found["packages as required"].found == "pillow 10.2"


def test_a_full_disk_and_a_folder_that_is_read_only(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**9 if path == tmp_path else 10**11))
    found = by_about(machine.check_disk(tmp_path / "new" / "run"))
    results = found[f"{tmp_path / 'new' / 'run'} (results)"]
    assert (results.state, results.found) == ("problem", "only 1.00 GB are free")
    assert [each.state for each in found.values()].count("ok") == 2
    monkeypatch.setattr(machine.os, "access", lambda path, mode: path != tmp_path)
    assert by_about(machine.check_disk(tmp_path))[f"{tmp_path} (results)"].found == f"{tmp_path} cannot be written to"


def test_devices_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(machine.torch.version, "cuda", "12.4")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 10**6, 0, 64 * 10**6))
    found = by_about(machine.check_devices())
    assert found["cuda"].state == "problem" and "built for CUDA 12.4" in found["cuda"].found
    assert (found["/dev/shm"].state, found["/dev/shm"].found) == ("note", "0.06 GB of memory that processes share")


def test_the_text_says_what_to_do():
    findings = (
        Finding("lists", "a\n.txt", "problem", "it is empty", "write one"),
        Finding("disk", ".", "ok", "9 GB"),
        Finding("lists", "b.txt", "note", "short"),
    )
    assert str(Diagnosis(findings)).splitlines() == [
        "lists",
        r"  problem a\n.txt: it is empty",
        "          -> write one",
        "  note    b.txt: short",
        "disk",
        "  ok      .: 9 GB",
        "1 problem",
    ]
    assert str(Diagnosis(())) == "no problems"


@pytest.mark.parametrize("data", [None, "nowhere"])
def test_images_that_are_not_named_are_a_note_and_those_that_are_missing_a_problem(monkeypatch, tmp_path, data):
    monkeypatch.chdir(tmp_path)
    (found,) = [each for each in doctor(data=data).findings if each.topic in ("images", "lists")]
    assert found.state == ("note" if data is None else "problem")
    assert found.advice == "name a folder with --data, or in DATA (environment or .env)"


def test_the_command(tame_command, photographs, tmp_path):
    status, output = tame_command("doctor", "--data", photographs, "--sample", "3")
    assert status == 0
    assert output.endswith("\nno problems\n") and "24 images\n" in output and "3 of 24 images were opened" in output
    status, output = tame_command("doctor", tmp_path / "nowhere", "--json")
    assert status == 1
    (problem,) = [each for each in json.loads(output) if each["state"] == "problem"]
    assert problem == {
        "topic": "runs",
        "about": str(tmp_path / "nowhere"),
        "state": "problem",
        "found": "it does not exist",
        "advice": "name the folder that was given with --out",
    }
