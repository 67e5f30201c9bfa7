"""What runs are called: by their methods' names in the field, and by ids in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tame.evaluation.records import Run
from tame.explainers.build import MethodName
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


def method_of(run: Run) -> str:
    """Return the id of the method of a run; a run of maps made elsewhere has the name of their folder."""
    return str(run.summary.settings.get("method", run.folder.name))


def registered(method: str) -> Method | None:
    """Return what is known of a method by its id; None for users' own functions, maps and methods of libraries."""
    return EXPLAINERS.get(method) if method in EXPLAINERS else None


def title_of(run: Run) -> str:
    """Return the name in the field of the method of a run."""
    return MethodName(method_of(run), None).title


def names_of(runs: Sequence[Run]) -> list[str]:
    """Name runs by the method's name in the field, see `distinct`."""
    return distinct([title_of(run) for run in runs], runs)


def keys_of(runs: Sequence[Run]) -> list[str]:
    """Name runs by the method's id, see `distinct`."""
    return distinct([method_of(run) for run in runs], runs)


def distinct(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return the names of runs; where one occurs twice, the end of the folder that tells its runs apart follows it."""
    found = list(names)
    for name, times in Counter(names).items():
        if times > 1:
            places = [place for place, each in enumerate(names) if each == name]
            ends = _ends([runs[place].folder for place in places])
            # a comparison's folders begin with the method
            short = [end.removeprefix(f"{method_of(runs[place])}-") for place, end in zip(places, ends, strict=True)]
            for place, end in zip(places, short if len(set(short)) == times else ends, strict=True):
                found[place] = f"{name} ({end})"
    return found


def find_run(reference: str, runs: Sequence[Run]) -> int:
    """Return the position of the run that ``reference`` names: by its folder, or its method's id or name.

    Raises:
        InputError: If it names none of the runs, or several.
    """
    names = names_of(runs)
    exact = [
        {name, key, run.folder.name, str(run.folder)} for name, key, run in zip(names, keys_of(runs), runs, strict=True)
    ]
    loose = [{method_of(run), title_of(run)} for run in runs]
    for known in (exact, loose):
        found = [position for position, each in enumerate(known) if reference in each]
        if len(found) == 1:
            return found[0]
    raise InputError(f"expected one of the runs as reference: {', '.join(names)}, got {reference!r}")


def _ends(folders: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that none of the others has."""
    ends = []
    for place, folder in enumerate(folders):
        others = [*folders[:place], *folders[place + 1 :]]
        tails = (folder.parts[-count:] for count in range(1, len(folder.parts)))
        unique = (tail for tail in tails if all(other.parts[-len(tail) :] != tail for other in others))
        ends.append(str(Path(*next(unique, folder.parts))))
    return ends
