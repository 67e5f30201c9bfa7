"""Data never run code: pickles, metadata, configurations, lists, names and arrays that try to."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.native import read_metadata, save_attention
from tame.cli.main import main
from tame.utils.checks import InputError


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, proof):
        self.command = f"touch '{proof}'"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def proof(monkeypatch, tmp_path):
    """A file that exists only if code was run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "proof"


@pytest.fixture
def tame(proof, toy_backbone, capsys):
    """Run a command that explains with the toy network; return the exit status and what it says."""

    def run(name, *options):
        device = () if name in ("doctor", "table", "convert") else ("--device", "cpu", "--num-workers", "0")
        network = () if {"--backbone", "--config"} & set(options) or not device else ("--backbone", toy_backbone)
        status = main([name, *map(str, options), *device, *network])
        errors = capsys.readouterr().err
        assert not proof.exists(), f"code was run: {errors}"
        assert "Traceback" not in errors
        return status, errors

    return run


@pytest.fixture
def checkpoint(toy_classifier, tmp_path):
    classifier = toy_classifier()
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    return save_attention(tmp_path / "checkpoint", model, {"attention": "ttame", "output_size": "largest"})


def test_the_attack_would_work(proof):
    pickle.loads(pickle.dumps(Attack(proof)))  # noqa: S301 - to see that the tests below can fail
    assert proof.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "inside"])
@pytest.mark.parametrize("option", ["--weights", "--checkpoint", "convert", "doctor"])
def test_pickles_of_weights_and_checkpoints(tame, proof, tmp_path, form, option):
    file = tmp_path / "bad.pth"
    content = (
        {"state_dict": {"fuser.weight": Attack(proof)}, "x": torch.zeros(1)} if form == "inside" else Attack(proof)
    )
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "legacy")
    line = (option, file) if not option.startswith("--") else ("explain", "--method", "gradcam", option, file)
    if option == "--checkpoint":
        line = ("explain", option, file)
    status, errors = tame(*line)
    assert status == (1 if option == "doctor" else 2)
    assert option == "doctor" or ("posix.system" in errors or "cannot be read" in errors or "loaded safely" in errors)


def test_the_checkpoint_of_a_run_that_is_looked_at(tame, proof, tmp_path):
    (tmp_path / "run" / "lightning").mkdir(parents=True)
    torch.save({"epoch": 1, "global_step": Attack(proof)}, tmp_path / "run" / "lightning" / "last.ckpt")
    assert tame("doctor", "run")[0] == 1


NAMES = {
    "backbone": "evil:build",
    "attention": "evil:build",
    "layers": ["evil:build"],
    "classifier": {"backbone": "evil:build", "weights": "evil.pth", "class_names": ["a"] * 5},
    "source": {"file": "evil.py", "program": "evil:build"},
    "output": "evil:build",
    "preset": "evil:build",
}


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("named", ["evil:build", "evil.py:build"])
def test_metadata_never_name_code_that_is_run(tame, proof, checkpoint, tmp_path, key, named):
    (tmp_path / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\ndef build(): raise SystemExit")
    value = json.loads(json.dumps(NAMES[key]).replace("evil:build", named))
    metadata = read_metadata(checkpoint) | {key: value}
    if key == "classifier":
        metadata["backbone"] = value["backbone"]
    file = checkpoint / "attention.safetensors"
    file.write_bytes(save(load(file.read_bytes()), {"tame": json.dumps(metadata)}))
    (checkpoint / "metadata.json").write_text(json.dumps(metadata))
    tame("explain", "--checkpoint", checkpoint)
    assert main(["explain", "--checkpoint", str(checkpoint), "--device", "cpu", "--num-workers", "0"]) == 2
    assert not proof.exists()
    tame("doctor", checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        "epochs: !!python/object/apply:os.system [\"touch 'PROOF'\"]",
        "!!python/object/new:os.system [\"touch 'PROOF'\"]",
        "out: !!python/name:os.system",
        "data: \"$(touch 'PROOF')\"",
        "out: \"`touch 'PROOF'`\"",
        "precision: __import__('os').system(\"touch 'PROOF'\")",
    ],
)
def test_configurations(tame, proof, tmp_path, content):
    (tmp_path / "config.yaml").write_text(content.replace("PROOF", str(proof)))
    assert tame("train", "--config", "config.yaml")[0] == 2


def test_lists_class_names_and_images(tame, proof, photographs, tmp_path):
    names = [f"$(touch '{proof}').png", f"`touch '{proof}'`.png", f"; touch '{proof}' #.png".replace("/", "_")]
    (tmp_path / "list.txt").write_text("".join(f"{name} 1\n" for name in names))
    assert tame("evaluate", "--data", photographs, "--list", "list.txt", "--method", "centre")[0] == 2
    (tmp_path / "names.txt").write_text(
        "\n".join([f"<script>{proof}</script>", "__import__('os')", "{0.__class__}", "%s", "x"])
    )
    image = photographs / "00.png"
    assert tame("explain", image, "--method", "gradcam", "--class-names", "names.txt")[0] == 0
    image.write_bytes(pickle.dumps(Attack(proof)))
    assert tame("explain", image, "--method", "gradcam")[0] == 1
    image.with_suffix(".eps").write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch {proof}) (w) file\n")
    tame("explain", image.with_suffix(".eps"), "--method", "gradcam")


def test_maps_that_are_pickles(tame, proof, photographs, tmp_path):
    (tmp_path / "maps").mkdir()
    for index in range(24):
        np.save(tmp_path / "maps" / f"{index:02}.npy", np.array([Attack(proof)], dtype=object), allow_pickle=True)
    status, errors = tame("evaluate", "--data", photographs, "--maps", "maps")
    assert status == 2 and "00.npy" in errors


def test_a_zip_of_checkpoints_that_unpacks_elsewhere(tame, proof, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("../proof", b"x")
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(proof)))
    assert tame("explain", "--checkpoint", tmp_path / "bad.pt")[0] == 2
    assert not (tmp_path.parent / "proof").exists()


def test_what_the_user_names_is_run(tame, tmp_path, toy_backbone):
    (tmp_path / "mine.py").write_text("import torch\ndef explain(images, targets): return images.mean(1)")
    assert tame("explain", "--method", "mine:explain")[0] == 0
    with pytest.raises(InputError):
        read_metadata(tmp_path)
