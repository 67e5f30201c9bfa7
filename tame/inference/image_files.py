"""Image files, read and prepared for classifiers in batches."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no type information
from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]

from tame.data import Crop, load_image
from tame.inference.batch import PreparedImage, prepare_image
from tame.inference.result import Failure, failure_of
from tame.utils.checks import InputError
from tame.utils.processes import end_with_parent, noticing_ended_workers

logger = logging.getLogger("tame")

_LARGEST = 1280  # longest side of the images that are drawn, in pixels


class ImageFiles(Dataset["list[PreparedImage] | Failure"]):
    """Files prepared for several classifiers; an unreadable one is a `Failure`, and does not stop the others."""

    def __init__(self, files: Sequence[Path], crops: Sequence[Crop]) -> None:
        self.files = files
        self.crops = crops

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[PreparedImage] | Failure:
        file = self.files[index]
        try:
            image = load_image(file)
            prepared = {crop: prepare_image(image, crop, str(file)) for crop in dict.fromkeys(self.crops)}
            image.thumbnail((_LARGEST, _LARGEST))  # in place, so in all that was prepared
        except InputError as error:
            return Failure(str(file), str(error))
        except Exception as error:
            return failure_of("resize", file, error)
        return [prepared[crop] for crop in self.crops]

    def batches(
        self, batch_size: int, num_workers: int, done: Container[int], progress: bool
    ) -> Iterator[dict[int, list[PreparedImage] | Failure]]:
        """Yield batches of the images by position, and show a progress bar.

        Args:
            batch_size: Images per batch.
            num_workers: Processes that read images; 0 reads in the main process.
            done: Positions of images that are left out of their batches.
            progress: Whether a bar is shown.

        Raises:
            InputError: If a process that reads images was killed.
        """
        starts = range(0, len(self), batch_size)
        batches = [range(start, min(start + batch_size, len(self))) for start in starts]
        waiting = [left for batch in batches if (left := [index for index in batch if index not in done])]
        count = len(self) - sum(map(len, waiting))
        loader = DataLoader(
            self, batch_sampler=waiting, num_workers=num_workers, collate_fn=list, worker_init_fn=end_with_parent
        )
        bar = tqdm(total=len(self), initial=count, desc="explain", unit="image", disable=None if progress else True)
        with bar, logging_redirect_tqdm(), noticing_ended_workers(ConnectionError, EOFError):
            for batch, items in zip(waiting, loader, strict=True):
                yield dict(zip(batch, items, strict=True))
                bar.update(len(batch))
