"""The verbs of `jitlab data`."""

import argparse
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jitlab.cli_arguments import at_least_one, number_or_path, path, whole_number
from jitlab.errors import UserError

if TYPE_CHECKING:
    from jitlab.datasets.cache import ShardCache

SHEET_PIXELS = 144
USUAL_BATCH = 256
NO_INDEX = "build the shards with jitlab data build, or index those that are there with jitlab data index"


def build_data(arguments: argparse.Namespace) -> int:
    """Build a data set as shards, or go on with it."""
    from jitlab import data_build
    from jitlab.console import console

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    return data_build.build_digits(given) if arguments.data == "digits" else data_build.build_imagenet(given, console())


def verify_data(arguments: argparse.Namespace) -> int:
    """Read and decode all of the shards and compare them with their index."""
    from jitlab.console import shard_progress
    from jitlab.datasets.parallel import cores
    from jitlab.datasets.store import open_store
    from jitlab.datasets.verify import verify

    index, store = open_store(arguments.folder, NO_INDEX, cache())
    damaged = False
    with shard_progress("verifying") as progress:
        for fault in verify(index, store, arguments.workers or cores(), progress):
            print(fault, file=sys.stderr)
            damaged = True
    if damaged:
        return 1
    shards = sum(map(len, index.splits.values()))
    print(
        f"{arguments.folder}: {shards} shards with {len(index.rows)} images are as their index says, fingerprint "
        f"{index.fingerprint[:12]}"
    )
    return 0


def index_data(arguments: argparse.Namespace) -> int:
    """Write the index of WebDataset shards that are there already."""
    from jitlab.console import shard_progress
    from jitlab.datasets.index import HELD_OUT, TRAIN
    from jitlab.datasets.indexing import index_shards
    from jitlab.datasets.parallel import cores
    from jitlab.datasets.remote import is_remote

    if is_remote(arguments.source) and arguments.out is None:
        raise UserError(f"{arguments.source}: is on a server; name a folder for its index with --out")
    out = arguments.out or Path(arguments.source)
    if not is_remote(arguments.source) and out.resolve() != Path(arguments.source).resolve():
        raise UserError(f"--out {out}: belongs to shards on a server; the index of a folder is written into it")
    words = ["jitlab", "data", "index", arguments.source, *(["--out", str(out)] if arguments.out else [])]
    words += [word for pattern in arguments.held_out for word in ("--held-out", pattern)]
    words += ["--num-classes", str(arguments.num_classes)] if arguments.num_classes else []
    with shard_progress("indexing") as progress:
        index = index_shards(
            arguments.source,
            out,
            arguments.held_out,
            arguments.num_classes,
            arguments.workers or cores(),
            shlex.join(words),
            progress,
        )
    counts = ", ".join(f"{len(index.split(split)[1])} {split}" for split in (TRAIN, HELD_OUT))
    size = f" of {index.facts.image_size} px" if index.facts.image_size else ""
    print(
        f"{out}: {counts} images{size}, {index.facts.num_classes} classes, fingerprint {index.fingerprint[:12]}\n"
        f"train on them with data.source=imagenet data.path={out} data.num_classes={index.facts.num_classes}"
    )
    return 0


def info_data(arguments: argparse.Namespace) -> int:
    """Show what shards hold, and write a contact sheet of them."""
    from jitlab.console import console
    from jitlab.data_info import Serving, contact_sheet, describe
    from jitlab.datasets.images import ShardImages
    from jitlab.datasets.index import TRAIN
    from jitlab.datasets.remote import is_remote
    from jitlab.datasets.store import check_store, open_store

    index, store = open_store(arguments.folder, NO_INDEX, cache())
    check_store(index, store)
    terminal = console()
    describe(
        arguments.folder,
        index,
        Serving(
            arguments.batch_size or min(USUAL_BATCH, len(index.split(TRAIN)[1])),
            arguments.window_shards,
            arguments.partitions,
        ),
        terminal,
    )
    images = ShardImages(index, store, TRAIN, SHEET_PIXELS, "exact", seed=0, flip=False)
    sheet = arguments.sheet or Path("." if is_remote(arguments.folder) else arguments.folder) / "contact_sheet.png"
    count = contact_sheet(images, index.facts.classes, sheet)
    terminal.print(f"{sheet}: {count} training images", highlight=False, soft_wrap=True, markup=False)
    return 0


def cache() -> "ShardCache":
    """Return the cache of shards on a server, where runs have it."""
    from jitlab.config.load import repository
    from jitlab.config.schema import Data
    from jitlab.datasets.cache import GIGABYTE, ShardCache

    # Of the repository, as runs have it; shards can be looked at without one.
    root = Path()
    with suppress(UserError):
        root = repository()
    return ShardCache(root / Data.cache, int(Data.cache_gb * GIGABYTE))


def show_data(arguments: argparse.Namespace) -> int:
    """Draw the batch that a step of a run was trained on."""
    from jitlab.config.load import repository
    from jitlab.replay import replay

    batch = replay(repository(), arguments.run, arguments.step, arguments.out)
    for place, (key, label) in enumerate(zip(batch.keys, batch.labels, strict=True)):
        print(f"{place:5}  {key}  class {label}")
    print(f"{batch.picture}: {len(batch.keys)} images of step {arguments.step}, epoch {batch.epoch}, {batch.origin}")
    return 0


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of `jitlab data`."""
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    build = verbs.add_parser("build", help=build_data.__doc__, description=build_data.__doc__)
    build.add_argument("data", choices=["digits", "imagenet"])
    build.add_argument("--image-size", type=at_least_one, required=True, help="pixels")
    build.add_argument("--out", type=path, required=True, help="folder of the shards")
    own = build.add_argument_group("for imagenet")
    sources = "ILSVRC2012_img_train.tar, a folder of class folders or of one tar for each class, or WebDataset shards"
    own.add_argument("--source", type=path, help=sources)
    store = "images as they are, cropped when read (where not given), or their centre crops, stored without loss"
    own.add_argument("--store", choices=["original", "crop"], help=store)
    own.add_argument("--format", choices=["webp", "raw"], help="of crops; webp where not given")
    held_out = "training images to set aside (1000 where not given), or where validation images are"
    own.add_argument("--held-out", type=number_or_path, metavar="N|PATH", help=held_out)
    devkit = "ILSVRC2012_devkit_t12.tar.gz, which has the labels of ILSVRC2012_img_val.tar"
    own.add_argument("--devkit", type=Path, help=devkit)
    own.add_argument("--seed", type=whole_number, help="of the order of the images; 0 where not given")
    own.add_argument("--samples-per-shard", type=at_least_one, help="1000 where not given")
    own.add_argument("--workers", type=at_least_one, help="processes; all cores where not given")
    tolerated = "unreadable images to end with exit code 0 nevertheless"
    own.add_argument("--allow-errors", type=whole_number, metavar="N", help=tolerated)
    build.set_defaults(verb=build_data)
    verify = verbs.add_parser("verify", help=verify_data.__doc__, description=verify_data.__doc__)
    verify.add_argument("folder", help="folder or URL of the index")
    verify.add_argument("--workers", type=at_least_one, help="processes; one a core where not given")
    verify.set_defaults(verb=verify_data)
    index = verbs.add_parser("index", help=index_data.__doc__, description=index_data.__doc__)
    index.add_argument("source", metavar="DIR|URL", help="of the shards, or such as https://host/train-{000..123}.tar")
    index.add_argument("--out", type=path, help="folder of the index, for shards on a server")
    patterns = "shards that are not trained on, such as 'val-*.tar'; those named val, test or held_out where not given"
    index.add_argument("--held-out", action="append", default=[], metavar="PATTERN", help=patterns)
    index.add_argument("--num-classes", type=at_least_one, help="one more than the highest label where not given")
    index.add_argument("--workers", type=at_least_one, help="processes; one a core where not given")
    index.set_defaults(verb=index_data)
    info = verbs.add_parser("info", help=info_data.__doc__, description=info_data.__doc__)
    info.add_argument("folder", help="folder or URL of the index")
    batch = f"of the batches that are told about; {USUAL_BATCH}, or all images where they are fewer, where not given"
    info.add_argument("--batch-size", type=at_least_one, help=batch)
    info.add_argument("--window-shards", type=at_least_one, default=16, help="as data.window_shards")
    info.add_argument("--partitions", type=at_least_one, default=1, help="as data.partitions")
    info.add_argument("--sheet", type=Path, help="the picture; contact_sheet.png in the folder where not given")
    info.set_defaults(verb=info_data)
    show = verbs.add_parser("show", help=show_data.__doc__, description=show_data.__doc__)
    show.add_argument("--run", type=Path, required=True, help="folder of a run, such as runs/noise_vs_x-digits/x")
    show.add_argument("--step", type=int, required=True, help="counted from 1")
    show.add_argument("--out", type=Path, help="the picture; batchNNNNNN.png in the run's folder where not given")
    show.set_defaults(verb=show_data)
