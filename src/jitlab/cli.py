"""The command line: verbs that import what they need when they are called, so that help is instant."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from jitlab import cli_evaluate
from jitlab.cli_arguments import EXIT_INTERRUPTED, at_least_one, label, path, two_numbers, whole_numbers
from jitlab.cli_data import add_data
from jitlab.errors import RunError, UserError

EXIT_RUN_ERROR, EXIT_USER_ERROR = 1, 2
# One verb of two words: `evaluate` alone takes a path.
REFERENCE = "evaluate reference"
FILES_TOLD = 16


class OneLineParser(argparse.ArgumentParser):
    """Tells a mistake on one line, as everything else does."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where to look, and exit with code 2."""
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run a verb; a user's mistake is told on one line, without a traceback, with exit code 2."""
    arguments = _parse(argv)
    try:
        code: int = arguments.verb(arguments)
    except UserError as error:
        print(f"jitlab: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunError as error:
        print(f"jitlab: {error}", file=sys.stderr)
        return EXIT_RUN_ERROR
    except OSError as error:
        print(f"jitlab: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def run(arguments: argparse.Namespace) -> int:
    """Run a question's arms at a scale."""
    from jitlab.config.load import repository
    from jitlab.console import console

    root, terminal = repository(), console()
    from jitlab.experiment import execute, plan
    from jitlab.processes import torchrun

    rank, devices = torchrun() or (0, None)
    if rank > 0:
        # Every run has processes of its own, which end with it, so that one that fails takes no other along. Of
        # torchrun's, the first one starts them, and its number is theirs.
        return 0
    planned = plan(
        root,
        arguments.experiment,
        arguments.scale,
        arguments.arms,
        arguments.seeds,
        [*arguments.overrides, *([f"train.devices={devices}"] if devices else [])],
        arguments.name,
        arguments.start,
        arguments.allow_batch_change,
    )
    return execute(planned, arguments.fresh, terminal)


def report(arguments: argparse.Namespace) -> int:
    """Write the report of an experiment again."""
    from jitlab.config.load import repository
    from jitlab.console import console
    from jitlab.report.folders import experiment_folder
    from jitlab.report.render import write_report
    from jitlab.report.terminal import closing_table

    root = repository()
    folder = experiment_folder(root, arguments.experiment, arguments.scale, arguments.name)
    path = write_report(folder)
    terminal = console()
    terminal.print(closing_table(folder))
    terminal.print(str(path.relative_to(root)), soft_wrap=True)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Lay runs or certificates side by side, in order, with a verdict on each."""
    from jitlab.console import console
    from jitlab.report.comparison import comparison

    tables, lines = comparison(arguments.paths)
    terminal = console()
    for table in tables:
        terminal.print(table)
    for line in lines:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def ui(arguments: argparse.Namespace) -> int:
    """Serve the MLflow UI and print the link to an experiment's charts."""
    from jitlab.config.load import repository
    from jitlab.tracking_server import serve

    return serve(repository(), arguments.experiment, arguments.scale, arguments.name, arguments.port)


def sample(arguments: argparse.Namespace) -> int:
    """Draw images from a checkpoint."""
    from jitlab.console import console
    from jitlab.sample import Request, sample

    typed = {"--cfg": arguments.cfg, "--steps": arguments.steps, "--solver": arguments.solver, "--seed": arguments.seed}
    request = Request(
        classes=arguments.classes,
        count=arguments.count,
        batch_size=arguments.batch_size,
        options={option: text for option, text in typed.items() if text is not None},
        words=arguments.overrides,
        weights=arguments.weights,
        grid=arguments.grid,
        trajectory=arguments.trajectory,
    )
    terminal = console()
    files = [file.name for file in sample(arguments.checkpoint, arguments.out, request, terminal)]
    told = ", ".join(files) if len(files) <= FILES_TOLD else f"{len(files)} files, {files[0]} to {files[-1]}"
    terminal.print(f"{arguments.out}: {told}", soft_wrap=True)
    return 0


def import_checkpoint(arguments: argparse.Namespace) -> int:
    """Make a jitlab checkpoint of one in the official layout."""
    from jitlab.checkpoint_import import Options, import_official

    options = Options(arguments.scale, arguments.in_context_start, arguments.ema_decays, arguments.overrides)
    imported = import_official(arguments.checkpoint, arguments.out, options)
    config, model = imported.config, imported.config.model
    print(
        f"{arguments.out}: {config.data.image_size} px in patches of {model.patch_size}, width {model.hidden_size}, "
        f"depth {model.depth}, {model.num_heads} heads, {config.data.num_classes} classes, "
        f"averages {', '.join(f'{decay:g}' for decay in config.train.ema_decays)}, step {imported.step}"
    )
    if imported.lost_epoch is not None:
        print(
            f"{arguments.checkpoint}: epoch {imported.lost_epoch} without the optimizer's state: training starts at "
            "step 0, with the warm-up and without moments"
        )
    return 0


def export_checkpoint(arguments: argparse.Namespace) -> int:
    """Write a jitlab checkpoint in the official layout, or one set of its weights as safetensors."""
    from jitlab.checkpoint_export import export_official, export_safetensors

    if arguments.format == "safetensors":
        if arguments.ema_decays:
            raise UserError("--ema-decays: belongs to --format official; use --weights ema0.9999")
        label = export_safetensors(arguments.checkpoint, arguments.out, arguments.weights)
        print(f"{arguments.out}: {label} of {arguments.checkpoint}")
        return 0
    if arguments.weights:
        raise UserError("--weights: belongs to --format safetensors; use --ema-decays to choose the two averages")
    export_official(arguments.checkpoint, arguments.out, arguments.ema_decays)
    print(f"{arguments.out}: {arguments.checkpoint} in the official layout")
    return 0


def list_(arguments: argparse.Namespace) -> int:
    """List the questions with what they cost here, the models, or the settings."""
    from jitlab import listing

    if arguments.what == "experiments":
        listing.experiments(arguments.scale, arguments.measurement)
        return 0
    for option, given in {"--scale": arguments.scale, "--no-measurement": not arguments.measurement}.items():
        if given:
            raise UserError(f"{option}: belongs to jitlab list experiments; leave it out of list {arguments.what}")
    (listing.models if arguments.what == "models" else listing.settings)()
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    if words[:2] == REFERENCE.split():
        words = [REFERENCE, *words[2:]]
    arguments, rest = parser.parse_known_args(words)
    # argparse takes no positional words after an option; overrides may stand anywhere.
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser("jitlab", description="A laboratory for diffusion models that predict clean data.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_run(verbs.add_parser("run", help=run.__doc__, description=run.__doc__))
    _add_report(verbs.add_parser("report", help=report.__doc__, description=report.__doc__))
    _add_compare(verbs.add_parser("compare", help=compare.__doc__, description=compare.__doc__))
    _add_ui(verbs.add_parser("ui", help=ui.__doc__, description=ui.__doc__))
    add_data(
        verbs.add_parser("data", help="Build, index, check and look at shards.", description="Build and verify shards.")
    )
    about = cli_evaluate.evaluate.__doc__
    cli_evaluate.add_evaluate(verbs.add_parser("evaluate", help=about, description=about))
    about = cli_evaluate.reference.__doc__
    cli_evaluate.add_reference(verbs.add_parser(REFERENCE, help=about, description=about))
    _add_sample(verbs.add_parser("sample", help=sample.__doc__, description=sample.__doc__))
    about = "Take over and write checkpoints in the official layout."
    _add_checkpoint(verbs.add_parser("checkpoint", help=about, description=about))
    _add_list(verbs.add_parser("list", help=list_.__doc__, description=list_.__doc__))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="a question: a file in experiments/, without .yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as train.steps=2000")
    parser.add_argument("--scale", help="a file in experiments/scales/; the question's own where not given")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="run only these arms, such as x,v")
    parser.add_argument("--seeds", type=at_least_one, default=1, help="repeat every arm with this many seeds")
    parser.add_argument("--name", type=label, help="keep these runs beside others of the same question and scale")
    parser.add_argument("--fresh", action="store_true", help="delete these runs and start over")
    change = "go on with another train.batch_size, from the same sample on"
    parser.add_argument("--allow-batch-change", action="store_true", help=change)
    start = "start the runs that have no checkpoint yet from this one, at its step"
    parser.add_argument("--from", dest="start", type=Path, metavar="FILE.ckpt", help=start)
    parser.set_defaults(verb=run)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment")
    parser.add_argument("--scale", help="the question's own where not given")
    parser.add_argument("--name", type=label, help="the name that the runs were given")
    parser.set_defaults(verb=report)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    each = "an experiment's folder, such as runs/noise_vs_x-digits, a run's, or a certificate: evaluation.json"
    parser.add_argument("paths", nargs="+", type=path, metavar="PATH", help=each)
    parser.set_defaults(verb=compare)


def _add_ui(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", nargs="?", help="print the link to this question's charts")
    parser.add_argument("--scale", help="the question's own where not given")
    parser.add_argument("--name", type=label, help="the name that the runs were given")
    parser.add_argument("--port", type=int, default=5000, help="of the local server")
    parser.set_defaults(verb=ui)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)
    words = "sampler settings, such as sampler.guidance_interval=[0.2,0.8]; the checkpoint's own where not given"
    parser.add_argument("overrides", nargs="*", metavar="sampler.KEY=VALUE", help=words)
    parser.add_argument("--classes", type=whole_numbers, required=True, help="labels, such as 207,360")
    parser.add_argument("--count", type=at_least_one, default=1, help="images of each class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images")
    parser.add_argument("--cfg", help="short for sampler.guidance_scale=CFG")
    parser.add_argument("--steps", help="short for sampler.steps=STEPS")
    parser.add_argument("--solver", help="short for sampler.solver=SOLVER, such as heun")
    parser.add_argument("--weights", help="raw or ema0.9999; the first average where not given")
    parser.add_argument("--seed", default="0", help="of the noise; image i has the same in every batch")
    parser.add_argument("--batch-size", type=at_least_one, default=16, help="images drawn at a time")
    parser.add_argument("--grid", action="store_true", help="write one picture, a row for each class")
    parser.add_argument("--trajectory", action="store_true", help="also write z and the predicted x over t")
    parser.set_defaults(verb=sample)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    taken = verbs.add_parser("import", help=import_checkpoint.__doc__, description=import_checkpoint.__doc__)
    taken.add_argument("checkpoint", type=Path, help="a file with model, model_ema1 and model_ema2")
    taken.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that no tensor says")
    taken.add_argument("--out", type=Path, required=True, help="the checkpoint to write")
    recipe = "where the training recipe is from; imagenet256 and so on, after the image size, where not given"
    taken.add_argument("--scale", help=recipe)
    taken.add_argument("--in-context-start", type=int, help="block of the first class tokens; that of the paper's size")
    decays = "of model_ema1 and model_ema2, such as 0.9999,0.9996"
    taken.add_argument("--ema-decays", type=two_numbers, default=(0.9999, 0.9996), metavar="D,D", help=decays)
    taken.set_defaults(verb=import_checkpoint)
    written = verbs.add_parser("export", help=export_checkpoint.__doc__, description=export_checkpoint.__doc__)
    written.add_argument("checkpoint", type=Path)
    written.add_argument("--out", type=Path, required=True, help="the file to write")
    written.add_argument("--format", choices=["official", "safetensors"], default="official")
    written.add_argument("--weights", help="for safetensors: raw or ema0.9999; the first average where not given")
    decays = "averages to write as model_ema1 and model_ema2; the first two where not given"
    written.add_argument("--ema-decays", type=two_numbers, metavar="D,D", help=decays)
    written.set_defaults(verb=export_checkpoint)


def _add_list(parser: argparse.ArgumentParser) -> None:
    about = "the questions (where not given), the paper's sizes of the network, or every setting with its range"
    parser.add_argument("what", nargs="?", choices=["experiments", "models", "settings"], help=about)
    parser.add_argument("--scale", help="of all questions; each one's own where not given")
    without = "only count: do not train for ten seconds, and estimate no times"
    parser.add_argument("--no-measurement", dest="measurement", action="store_false", help=without)
    parser.set_defaults(verb=list_, what="experiments")


if __name__ == "__main__":
    sys.exit(main())
