from dataclasses import dataclass
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from tame.data.datamodule import ImageListDataModule, image_loader
from tame.data.dataset import EpochSampler, ImageListDataset
from tame.data.images import load_image
from tame.data.lists import ImageEntry
from tame.data.transforms import Crop
from tame.utils.checks import InputError
from tame.utils.seeds import mixed_seed


@dataclass(frozen=True)
class Values:
    resize: int = 16
    crop: int = 12
    interpolation: str = "bilinear"
    channels: int = 3


@pytest.fixture
def entries(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"ïmage {index}.png" for index in range(10)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (16, 30, 3), np.uint8)).save(path)
    return [ImageEntry(path, None if index == 3 else index) for index, path in enumerate(paths)]


def test_samples(entries):
    transform = Crop(16, 12)
    dataset = ImageListDataset(entries, transform)
    assert len(dataset) == 10
    sample = dataset[4]
    assert torch.equal(sample["image"], transform(load_image(entries[4].path)))
    assert (sample["label"], sample["index"]) == (4, 4)
    assert dataset[3]["label"] == -1
    assert len(ImageListDataset([], transform)) == 0


def test_random_crops_depend_on_seed_epoch_and_index_only(entries):
    same = [entries[0]] * 2
    dataset = ImageListDataset(same, Crop(16, 12, kind="random"), seed=1)
    torch.rand(3)  # torch's global generator has no effect
    assert torch.equal(dataset[0, 2]["image"], dataset[0, 2]["image"])
    first = ImageListDataset(same, Crop(16, 12, kind="random"), seed=1)
    assert torch.equal(first[0, 2]["image"], dataset[0, 2]["image"])
    for key, other in ((0, 3), dataset), ((1, 2), dataset), ((0, 2), ImageListDataset(same, first.transform, seed=2)):
        assert not torch.equal(other[key]["image"], dataset[0, 2]["image"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_is_one_sentence_from_any_process(entries, num_workers):
    entries[5].path.write_text("text")
    loader = image_loader(ImageListDataset(entries, Crop(16, 12)), 4, num_workers)
    with pytest.raises(InputError, match=r"^cannot read .*ïmage 5\.png: expected an image") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_sampler_is_a_permutation_by_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 4)) == [(index, 4) for index in range(50)]
    assert order(0, 4) == order(0, 4)
    orders = [tuple(index for index, _ in order(seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9  # epoch 1 of seed 0 is not epoch 0 of seed 1


def test_seeds_fit_torch():
    assert all(0 <= mixed_seed(index, -index, 2**62) < 2**63 for index in range(100))


def module(entries, train=10, **options):
    data = ImageListDataModule(entries[:train], entries, Values(), **options)
    data.setup()
    return data


@pytest.mark.parametrize(
    ("train", "batch_size", "sizes"), [(10, 4, [4, 4]), (9, 4, [4, 4]), (3, 4, [3]), (4, 4, [4]), (1, 4, [1])]
)
def test_only_a_last_training_batch_among_several_is_left_out(entries, train, batch_size, sizes):
    data = module(entries, train, batch_size=batch_size)
    assert [len(batch["label"]) for batch in data.train_dataloader()] == sizes
    assert [len(batch["label"]) for batch in data.val_dataloader()] == [4, 4, 2]
    assert data.steps_per_epoch() == len(sizes)
    assert data.steps_per_epoch(processes=2) == max(1, len(sizes) // 2)


def test_batches(entries):
    batch = next(iter(module(entries, batch_size=5).val_dataloader()))
    assert batch["image"].shape == (5, 3, 12, 12)
    assert batch["label"].tolist() == [0, 1, 2, -1, 4]
    assert batch["index"].tolist() == [0, 1, 2, 3, 4]
    assert batch["index"].dtype == batch["label"].dtype == torch.int64


def test_workers_read_the_same_as_the_main_process(entries):
    def seen(num_workers):
        loader = module(entries, crop="random-flip", batch_size=4, num_workers=num_workers).train_dataloader()
        batches = []
        for epoch in range(2):  # the workers persist
            loader.sampler.set_epoch(epoch)
            batches += [batch["image"] for batch in loader]
        return torch.cat(batches)

    alone = seen(0)
    assert torch.equal(alone, seen(2))
    assert not torch.equal(alone[:8], alone[8:])


class Watcher(lightning.LightningModule):
    """Records the indices of its training images, without training."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch["index"].tolist(), batch["image"].sum().item()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Stop(lightning.Callback):
    """Saves a checkpoint and stops a run after some steps."""

    def __init__(self, path, steps):
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            raise SystemExit


def fit(entries, tmp_path: Path, epochs, resume=None, stop=-1, num_workers=0):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, limit_val_batches=0, enable_checkpointing=False,
        callbacks=[Stop(tmp_path / "last.ckpt", stop)],
    )  # fmt: skip
    watcher = Watcher()
    data = ImageListDataModule(entries, entries, Values(), crop="random", batch_size=4, seed=3, num_workers=num_workers)
    try:
        trainer.fit(watcher, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    except SystemExit:
        assert trainer.global_step == stop
    return watcher.seen


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_sees_what_an_uninterrupted_one_sees(entries, tmp_path, num_workers):
    whole = fit(entries, tmp_path, 3)
    assert fit(entries, tmp_path, 1, num_workers=num_workers) == whole[:2]
    assert fit(entries, tmp_path, 3, tmp_path / "last.ckpt", num_workers=num_workers) == whole[2:]
    assert len({str(indices) for _, indices, _ in whole}) == 6


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize(("stop", "num_workers"), [(1, 0), (3, 0), (3, 1), (5, 1)])
def test_run_resumed_inside_an_epoch_sees_the_rest_of_it(entries, tmp_path, stop, num_workers):
    whole = fit(entries, tmp_path, 3)
    assert fit(entries, tmp_path, 3, stop=stop, num_workers=num_workers) == whole[:stop]
    assert fit(entries, tmp_path, 3, tmp_path / "last.ckpt", num_workers=num_workers) == whole[stop:]


def test_a_run_stopped_and_resumed_again_and_again(entries, tmp_path):
    whole = fit(entries, tmp_path, 3)
    seen = fit(entries, tmp_path, 3, stop=1)
    for _ in range(2):  # two more steps each: the second half of an epoch and the first half of the next
        seen += fit(entries, tmp_path, 3, tmp_path / "last.ckpt", stop=len(seen) + 2)
    assert seen + fit(entries, tmp_path, 3, tmp_path / "last.ckpt") == whole


def test_samples_that_were_seen_come_last_in_their_epoch_only():
    sampler = EpochSampler(10, seed=0)
    sampler.set_epoch(2)
    order = list(sampler)
    sampler.start_after(2, 4)
    assert list(sampler) == order[4:] + order[:4]
    sampler.set_epoch(3)
    later = EpochSampler(10, seed=0)
    later.set_epoch(3)
    assert list(sampler) == list(later)


def test_lightning_shards_the_sampler_over_processes():
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    def shard(rank, epoch):
        sampler = DistributedSamplerWrapper(EpochSampler(10, 0), num_replicas=2, rank=rank, shuffle=False)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(shard(0, 1) + shard(1, 1)) == [(index, 1) for index in range(10)]
    assert [index for index, _ in shard(0, 1)] != [index for index, _ in shard(0, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
        ({"num_workers": -1}, "expected num_workers from 0 to [0-9]+, got -1"),
        ({"crop": "middle"}, "expected one of the crops .*, got 'middle'"),
    ],
)
def test_bad_options(entries, options, message):
    with pytest.raises(InputError, match=message):
        ImageListDataModule(entries, entries, Values(), **options)


def test_training_needs_images(entries):
    data = module(entries, train=0)
    with pytest.raises(InputError, match="expected training images, got none"):
        data.train_dataloader()
