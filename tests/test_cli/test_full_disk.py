"""A full disk ends a command in one line, exit status 1; the same command goes on when there is space."""

import pytest

from faults import write_fails_at
from finished_runs import HALF, make_run
from tame.cli.main import main

ON_THE_CPU = ("--device", "cpu", "--num-workers", "0")


@pytest.fixture
def commands(toy_backbone, photographs, tmp_path):
    """Command lines by name, and a file that each has written at its end."""
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{index:02}.png ?\n" for index in range(3)))
    data = ("--backbone", toy_backbone, "--data", str(photographs), *ON_THE_CPU)
    make_run(tmp_path / "finished", "gradcam", HALF)
    methods = ("--methods", "gradcam,centre", "--list", str(few))
    return {
        "explain": (("--method", "gradcam", *data[:2], *ON_THE_CPU), "manifest.json"),
        "train": (("--epochs", "0", "--init-images", "2", *data), "attention.safetensors"),
        "evaluate": (("--method", "gradcam", "--list", str(few), *data), "summary.json"),
        "compare": ((*methods, "--report", "page", *data), "table.csv"),
        "table": ((str(tmp_path / "finished"),), "table.md"),
    }


@pytest.mark.parametrize("name", ["explain", "train", "evaluate", "compare", "table"])
def test_a_full_disk(commands, tmp_path, capsys, name):
    options, last = commands[name]
    out = tmp_path / "out" / last if name == "table" else tmp_path / "out"
    line = [name, *options, "--out", str(out), "--quiet"]
    for size in (0, 30, 100):
        with write_fails_at(size):
            status = main(line)
        errors = capsys.readouterr().err.strip().splitlines()
        assert status == 1, errors
        assert errors[-1].startswith(f"tame {name}: cannot write {tmp_path}"), errors
        assert "File too large" in errors[-1] and "Traceback" not in "".join(errors)
        assert errors[-1].endswith("; what is finished is kept, and the same command resumes") == (name != "table")
        assert not list(tmp_path.rglob(".*.tmp"))
    assert main(line) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / last).stat().st_size > 0
