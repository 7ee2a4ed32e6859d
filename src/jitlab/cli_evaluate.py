"""The verbs `jitlab evaluate` and `jitlab evaluate reference`."""

import argparse
import dataclasses

from jitlab.cli_arguments import EXIT_INTERRUPTED, at_least_one, path, whole_number

FEATURES = "inception, pixels, or timm: and the name of one of timm's networks"
WEIGHTS = "file of the network's weights; JITLAB_INCEPTION_WEIGHTS, then the published ones where not given"


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a checkpoint by a protocol: search, final evaluation, certificate."""
    from rich.markup import escape

    from jitlab import evaluate as subject
    from jitlab.callbacks.stop import StoppedError
    from jitlab.config.load import repository
    from jitlab.console import console
    from jitlab.report.terminal import certificate_table, search_table

    given = vars(arguments)
    names = [field.name for field in dataclasses.fields(subject.Request) if field.name != "words"]
    request = subject.Request(words=arguments.overrides, **{name: given[name] for name in names})
    terminal = console()
    try:
        evaluated = subject.evaluate(request, repository(), terminal)
    except StoppedError:
        terminal.print("stopped; the same command goes on from there")
        return EXIT_INTERRUPTED
    searched = search_table(evaluated.certificate)
    for table in [*([searched] if searched else []), certificate_table(evaluated.certificate)]:
        terminal.print(table)
    for warning in evaluated.certificate.warnings:
        terminal.print(f"[yellow]warning[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    pages = {"certificate": evaluated.file, "page": evaluated.page, "report": evaluated.report}
    for name, file in pages.items():
        if file:
            terminal.print(f"{name:12}{file}", highlight=False, soft_wrap=True)
    return 0


def reference(arguments: argparse.Namespace) -> int:
    """Write the reference statistics of training images."""
    from jitlab.cli_data import NO_INDEX, cache
    from jitlab.console import console
    from jitlab.datasets.parallel import cores
    from jitlab.datasets.store import open_store
    from jitlab.reference_statistics import Request, write_statistics

    index, store = open_store(arguments.data, NO_INDEX, cache())
    request = Request(
        data=arguments.data,
        features=arguments.features,
        weights=arguments.weights,
        image_size=arguments.image_size,
        images=arguments.images,
        out=arguments.out,
        workers=cores() if arguments.workers is None else arguments.workers,
    )
    terminal = console()
    written = write_statistics(request, index, store, terminal)
    terminal.print(f"{written.path}: {arguments.features} of {written.images} images", highlight=False, soft_wrap=True)
    if written.images <= written.dimensions:
        terminal.print(
            f"warning: {written.images} images have no covariance of full rank in {written.dimensions} dimensions; "
            "distances to it say little",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add what `jitlab evaluate` takes."""
    parser.add_argument("target", type=path, metavar="RUN|CHECKPOINT", help="a run's folder, or a checkpoint")
    words = "sampler settings, such as sampler.steps=100; the checkpoint's own where not given"
    parser.add_argument("overrides", nargs="*", metavar="sampler.KEY=VALUE", help=words)
    search = "look for the best of these on --images; ema=all, ema=0.9999,raw, cfg=1.0:4.0:0.1, cfg=1,1.5,2"
    parser.add_argument("--search", nargs="+", metavar="ema=|cfg=", help=search)
    ema = "decay of the average to evaluate without a search, or raw; the first one where not given"
    parser.add_argument("--ema", metavar="DECAY", help=ema)
    parser.add_argument("--full", action="store_true", help="search every cell, not first coarsely and then finely")
    parser.add_argument(
        "--images", type=at_least_one, default=8000, help="of every cell of the search; %(default)s if not given"
    )
    parser.add_argument(
        "--final", type=at_least_one, default=50_000, help="of the final evaluation; %(default)s if not given"
    )
    parser.add_argument("--seeds", type=at_least_one, default=1, help="repeat the final evaluation; gives the spread")
    parser.add_argument("--features", help=f"{FEATURES}; the run's own where not given")
    parser.add_argument("--weights", type=path, metavar="FILE", help=WEIGHTS)
    statistics = "statistics to compare with; those of the training images where not given"
    parser.add_argument("--reference", type=path, metavar="FILE.npz", help=statistics)
    parser.add_argument("--data", metavar="DIR|URL", help="of the training images; the run's own where not given")
    parser.add_argument("--batch-size", type=at_least_one, help="images generated at a time on a device")
    parser.add_argument("--devices", type=at_least_one, help="that generate; all GPUs, or one process, if not given")
    parser.add_argument("--save", type=whole_number, default=0, metavar="N", help="keep the first N images and a grid")
    parser.add_argument("--out", type=path, help="folder of the evaluation; one beside the checkpoint if not given")
    parser.add_argument("--fresh", action="store_true", help="delete another evaluation in this folder, start over")
    parser.set_defaults(verb=evaluate)


def add_reference(written: argparse.ArgumentParser) -> None:
    """Add what `jitlab evaluate reference` takes."""
    written.add_argument("--data", required=True, metavar="DIR|URL", help="of the shards' index")
    written.add_argument("--features", default="inception", help=f"{FEATURES}; inception where not given")
    written.add_argument("--weights", type=path, metavar="FILE", help=WEIGHTS)
    written.add_argument("--image-size", type=at_least_one, help="pixels to crop to, for images as they came")
    written.add_argument("--images", type=at_least_one, help="the first so many; all where not given")
    written.add_argument("--out", type=path, metavar="FILE.npz", help="reference-*.npz in DIR where not given")
    written.add_argument("--workers", type=int, help="processes that decode; one a core where not given")
    written.set_defaults(verb=reference)
