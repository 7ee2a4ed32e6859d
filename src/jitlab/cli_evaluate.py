"""The verbs of `jitlab evaluate`."""

import argparse

from jitlab.cli_arguments import at_least_one, path


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
    """Add the verbs of `jitlab evaluate`."""
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    written = verbs.add_parser("reference", help=reference.__doc__, description=reference.__doc__)
    written.add_argument("--data", required=True, metavar="DIR|URL", help="of the shards' index")
    names = "inception, pixels, or timm: and the name of one of timm's networks"
    written.add_argument("--features", default="inception", help=f"{names}; inception where not given")
    weights = "file of the network's weights; JITLAB_INCEPTION_WEIGHTS, then the published ones where not given"
    written.add_argument("--weights", type=path, metavar="FILE", help=weights)
    written.add_argument("--image-size", type=at_least_one, help="pixels to crop to, for images as they came")
    written.add_argument("--images", type=at_least_one, help="the first so many; all where not given")
    written.add_argument("--out", type=path, metavar="FILE.npz", help="reference-*.npz in DIR where not given")
    written.add_argument("--workers", type=int, help="processes that decode; one a core where not given")
    written.set_defaults(verb=reference)
