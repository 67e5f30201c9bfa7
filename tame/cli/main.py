"""The `tame` command: composes training, evaluation and explaining."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tame import __version__
from tame.cli.arguments import Command, parse
from tame.options import (
    CompareOptions,
    EvaluateOptions,
    ExplainOptions,
    ImportOptions,
    InspectOptions,
    ListOptions,
    LrFindOptions,
    TableOptions,
    TrainOptions,
)
from tame.utils.checks import InputError
from tame.utils.memory import keep_memory

if TYPE_CHECKING:
    from tame.evaluation import Summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status (0 well, 1 some files failed, 2 unusable input)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"tame: unknown command {name!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run_command(name, arguments[1:])


def run_command(name: str, arguments: Sequence[str], defaults: Any = None) -> int:
    """Run one command.

    Args:
        name: One of `COMMANDS`.
        arguments: Its command line.
        defaults: Options that replace the command's own defaults, as a recipe has them.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    command = COMMANDS[name]
    keep_memory()
    try:
        return command.run(parse(command, name, arguments, defaults))
    except InputError as error:
        print(f"tame {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tame {name}: interrupted", file=sys.stderr)
        return 130


def _explain(options: ExplainOptions) -> int:
    from tame.inference import bundled_photographs, collect_images, compare_files
    from tame.inference.setup import set_up_methods

    if options.top < 1:
        raise InputError(f"expected --top of at least 1, got {options.top}")
    files = collect_images(options.images) if options.images else bundled_photographs()
    methods = set_up_methods(options)
    targets = [methods[0].classifier.spec.resolve_target(target) for target in options.target]
    out = Path(options.out)
    report = compare_files(
        files,
        methods,
        targets=targets or None,
        top=options.top,
        out=out,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    by = " ({backbone})" if len(options.backbones()) > 1 else ""
    lines = [
        f"{entry['file']}: {entry['class_name']} ({entry['target']}) {100 * entry['confidence']:.1f} %"
        + by.format_map(entry)
        for entry in report.entries
    ]
    for line in dict.fromkeys(lines):  # several methods explain the same classes
        print(line)
    grids = list(dict.fromkeys(entry["grid"] for entry in report.entries if "grid" in entry))
    files_written = ", ".join(["overlays", "maps", *(grids if len(grids) < 4 else [f"{len(grids)} grids"])])
    print(f"{len(report.entries)} explanations: {files_written} and manifest.json are in {out}")
    return 1 if report.failures else 0


def _train(options: TrainOptions) -> int:
    from tame.callbacks.metrics import AverageDropIncrease
    from tame.training.train import train

    measure = AverageDropIncrease(scalings=("minmax", "rank"), masking=options.masking or None)
    folder = train(options, callbacks=[measure], monitor="val/rank/AD_50")
    print(f"The explainer is in {folder}; use it with: {_explain_with(folder, options.backbone)}")
    return 0


def _explain_with(folder: Path, backbone: str) -> str:
    """Return the command that explains with a trained checkpoint."""
    from tame.checkpoints.native import read_metadata
    from tame.explainers.learned import method_of

    chosen = {"backbone": backbone, "method": method_of(read_metadata(folder)["attention"])}
    words = [f"--{name} {value}" for name, value in chosen.items() if value != getattr(ExplainOptions, name)]
    return " ".join(["tame explain", *words, f"--checkpoint {folder}"])


def _lr_find(options: LrFindOptions) -> int:
    from tame.training.lr_find import lr_find

    found = lr_find(options)
    if found.suggestion is None:
        print("No learning rate can be suggested: the loss does not fall clearly between these rates. ", end="")
        print("Look at the curve, or test another range or more --steps.")
    else:
        print(f"Suggested learning rate: --lr {found.suggestion:.2g}")
    print(f"The curve is in {found.folder}: lr_find.png and lr_find.csv")
    return 0


def _evaluate(options: EvaluateOptions) -> int:
    from tame.evaluation.evaluate import run
    from tame.reporting.table import build_table

    finished = run(options)
    if finished.speaks:
        print(build_table([finished.folder]).markdown())
        print(_spent(finished.summary))
        print(f"A row per image and the summary are in {finished.folder}")
    return 0


def _spent(summary: Summary) -> str:
    """Say how well the classifier did and where the time went."""
    parts = [f"{name} accuracy {value:.2f} %" for name, value in summary.accuracy.items()]
    seconds = (f"{summary.cost[f'seconds_{name}']:.3g} to {name}" for name in ("explain", "perturb", "classify"))
    return "; ".join([*parts, f"seconds per image: {', '.join(seconds)}"])


def _compare(options: CompareOptions) -> int:
    from tame.reporting.compare import run_comparison

    finished = run_comparison(options)
    if finished.speaks:
        print((finished.folder / "table.md").read_text(encoding="utf-8"))
        print(f"Tables, curves and the runs are in {finished.folder}")
    return 0


def _table(options: TableOptions) -> int:
    from tame.evaluation.records import read_run
    from tame.reporting.table import compare, curves_of

    runs = [read_run(folder) for folder in options.runs]
    table = compare(runs, options.reference, options.seed)
    text = {"markdown": table.markdown, "latex": table.latex, "csv": table.csv}[options.format]()
    if options.curves:
        from tame.visualize import road_curves

        files = road_curves(curves_of(runs), options.curves)
        print(f"The ROAD curves are in {' and '.join(map(str, files))}", file=sys.stderr)
    if options.out:
        from tame.utils.io import replacing

        with replacing(options.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


def _import(options: ImportOptions) -> int:
    from tame.checkpoints.convert import import_checkpoint
    from tame.checkpoints.native import read_metadata

    folder = import_checkpoint(options)
    backbone = options.backbone or read_metadata(folder)["backbone"]
    print(f"The explainer is in {folder}; use it with: {_explain_with(folder, backbone)}")
    return 0


def _inspect(options: InspectOptions) -> int:
    from tame.backbones.load import find_spec, load_network
    from tame.classifier.probing.layer_table import inspect_layers
    from tame.classifier.probing.overrides import Given

    if len(options.model) != 1:
        raise InputError(f"expected one classifier to inspect, got {len(options.model)}: tame inspect resnet50")
    spec, module, _ = load_network(find_spec(options.model[0], Given.by(options)), options.weights)
    print(inspect_layers(spec, module).text(options.all))
    return 0


def _list(options: ListOptions) -> int:
    from tame.attention import ATTENTIONS
    from tame.backbones import BACKBONES
    from tame.evaluation.plan import METRICS
    from tame.explainers import EXPLAINERS
    from tame.presets import PRESETS

    known: dict[str, list[str]] = {
        "backbones": BACKBONES.names(),
        "methods": EXPLAINERS.names(),
        "metrics": list(METRICS),
        "presets": PRESETS.names(),
        "attention": ATTENTIONS.names(),
    }
    for kind in options.kinds or known:
        if kind not in known:
            raise InputError(f"cannot list {kind!r}; expected {', '.join(known)}")
        print(f"{kind}: {', '.join(known[kind])}")
    return 0


INSPECT_HIDES = ("backbone", "layers", "preset", "device", "precision", "seed", "num_workers", "resume")

COMMANDS = {
    "explain": Command("Explain photographs.", ExplainOptions, _explain, "images", "target"),
    "train": Command("Train an attention mechanism.", TrainOptions, _train),
    "lr-find": Command("Suggest a learning rate for a training run.", LrFindOptions, _lr_find),
    "evaluate": Command("Measure an explanation method.", EvaluateOptions, _evaluate),
    "compare": Command("Measure several methods.", CompareOptions, _compare, hidden=("method", "maps")),
    "table": Command("Compare finished evaluations.", TableOptions, _table, "runs"),
    "import": Command("Turn a published checkpoint into one of ours.", ImportOptions, _import, "file"),
    "inspect": Command(
        "Show the layers of a classifier.", InspectOptions, _inspect, "model", hidden=INSPECT_HIDES, flags=("all",)
    ),
    "list": Command("List what can be named.", ListOptions, _list, "kinds"),
}


def _overview() -> str:
    lines = [f"  {name:10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: tame COMMAND [OPTIONS]", "", "Trainable visual explanations of image classifiers.", "", *lines, ""]
        + ["`tame COMMAND --help` lists its options; `tame --version` prints the version."]
    )


if __name__ == "__main__":
    sys.exit(main())
