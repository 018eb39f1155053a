"""Prepares head-CT data, from DICOM to shards: `python -m data_builder COMMAND --help`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from data_builder.errors import InputError, run_command

Command = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """The command line. Each command imports its own modules when it runs: --help stays fast."""
    top = argparse.ArgumentParser(prog="python -m data_builder", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, run: Command, purpose: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=purpose,
            description=purpose,
            epilog=f"example: python -m data_builder {name} {example}",
        )
        command.set_defaults(run=run)
        return command

    phantom = add(
        "phantom",
        _phantom,
        "Write synthetic head studies as DICOM; results on them say nothing about patients.",
        "--out scans --subjects 40",
    )
    phantom.add_argument("--out", type=Path, required=True, help="folder to write")
    phantom.add_argument("--subjects", type=int, default=120, help="how many (default 120)")
    phantom.add_argument("--seed", type=int, default=0, help="another seed, other heads")
    _add_jobs(phantom)

    clean = add(
        "clean",
        _clean,
        "Clean DICOM into 8-bit slices, manifest.csv and refused.csv.",
        "scans --out cleaned",
    )
    clean.add_argument("src", type=Path, metavar="SRC", help="folder of DICOM, any layout")
    clean.add_argument("--out", type=Path, required=True, help="folder to write")
    clean.add_argument(
        "--mode",
        choices=("robust", "paper"),
        default="robust",
        help="robust (default): a fixed window, the holder removed; paper: the published steps",
    )
    clean.add_argument(
        "--format", choices=("png", "jpg"), default="png", help="png (default) is lossless"
    )
    _add_jobs(clean)
    _add_key(clean)

    review = add(
        "review",
        _review,
        "Serve a page on which people keep, drop and label cleaned slices.",
        "cleaned --dicom scans",
    )
    review.add_argument("dir", type=Path, metavar="DIR", help="a folder that clean wrote")
    review.add_argument("--port", type=int, default=8765, help="default 8765; 0: a free one")
    review.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    review.add_argument(
        "--dicom", type=Path, metavar="SRC", help="the cleaned DICOM, to show slices in HU"
    )
    review.add_argument(
        "--predictions", type=Path, metavar="FILE", help="predictions.csv, for an order of work"
    )
    review.add_argument(
        "--labels", type=Path, metavar="FILE", help="import a labels.csv as --reader, then exit"
    )
    review.add_argument("--reader", default="labels.csv", help="reader of the labels in --labels")
    review.add_argument(
        "--export", type=Path, metavar="OUT", help="write a folder for build, then exit"
    )
    _add_key(review)

    build = add(
        "build",
        _build,
        "Write labelled slices to shards, split by subject.",
        "cleaned --data_dir data --folds 5 --fold 0",
    )
    build.add_argument("src", type=Path, metavar="SRC", help="published layout, cleaned, or DICOM")
    build.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets")
    build.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    _add_split(build)
    build.add_argument("--runner", choices=("local", "beam"), default="local")
    build.add_argument(
        "--beam_options",
        default="",
        help="Beam's pipeline options in quotes, such as '--runner=FlinkRunner "
        "--flink_master=HOST:8081' (default: its DirectRunner)",
    )
    _add_key(build)

    audit = add(
        "audit",
        _audit,
        "Report leaks, copies, labels and confounds; status 1 on a leak, subjects in doubt or a "
        "damaged shard.",
        "cleaned --folds 5 --fold 0",
    )
    audit.add_argument(
        "src", type=Path, metavar="SRC", help="published layout, cleaned, or a built data set"
    )
    _add_split(audit)
    audit.add_argument("--splits", type=Path, help="a splits.csv to audit instead")
    _add_key(audit)

    lookup = add(
        "lookup",
        _lookup,
        "Print the meanings of a pseudonym; for staff of the site.",
        "sli-abcdefghijklmnop",
    )
    lookup.add_argument("pseudonym")
    _add_key(lookup)
    return top


def _add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--jobs", type=int, help="processes (default: one per core)")


def _add_key(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--key",
        help="file with the site's key for pseudonyms, made on first use (default: in your "
        "config folder); outside of all that is shared; 'public' for phantoms alone",
    )


def _add_split(command: argparse.ArgumentParser) -> None:
    command.add_argument("--split", choices=("subject", "slice"), default="subject")
    command.add_argument("--folds", type=int, default=0, help="0: one 80/10/10 split (default)")
    command.add_argument("--fold", type=int, default=0, help="the test fold")
    command.add_argument("--seed", type=int, default=0, help="of the split")


def _phantom(args: argparse.Namespace) -> int:
    from data_builder.phantom import write_studies

    counts = write_studies(args.out, args.subjects, args.seed, args.jobs)
    print(f"{args.out}: {counts}")
    return 0


def _clean(args: argparse.Namespace) -> int:
    """Exit status 1 where a file was refused, or a row of labels.csv matches no slice."""
    from data_builder.cleaning.clean_folder import clean_folder

    summary = clean_folder(
        args.src,
        args.out,
        mode=args.mode,
        jobs=args.jobs,
        key=args.key,
        image_format=args.format,
    )
    print(f"{args.out}: {summary}")
    return 1 if summary.refused or summary.unmatched_labels else 0


def _review(args: argparse.Namespace) -> int:
    """Exit status 1 where a row of --labels matches no slice."""
    from data_builder.pseudonyms import check_key_place
    from data_builder.review import command

    check_key_place(args.key, {"--export": args.export})
    answers = command.open_review(args.dir, args.dicom, args.predictions, args.key)
    unmatched = 0
    if args.labels:
        imported = command.take_labels(answers, args.labels, args.reader, args.key)
        print(f"{args.dir}: {imported.summary}")
        unmatched = imported.unmatched
    if args.export:
        print(f"{args.export}: {command.write_export(answers, args.export)}")
    if not (args.labels or args.export):
        command.serve(answers, args.host, args.port)
    return 1 if unmatched else 0


def _build(args: argparse.Namespace) -> int:
    """Exit status 1 where a row of the DICOM folder's labels.csv matches no slice."""
    from data_builder.shards.build import cleaned_first, prepare
    from data_builder.shards.splits import SplitPlan

    plan = SplitPlan(args.split, args.folds, args.fold, args.seed)
    if args.beam_options and args.runner != "beam":
        raise InputError("--beam_options is for --runner beam: give both")
    beam = shlex.split(args.beam_options) if args.runner == "beam" else None
    source, unmatched = cleaned_first(args.src, args.data_dir, args.key)
    print(prepare(source, args.data_dir, plan, args.size, args.key, beam))
    return 1 if unmatched else 0


def _audit(args: argparse.Namespace) -> int:
    """Exit status 1 on a leak, subjects in doubt or a damaged shard."""
    from data_builder.shards.audit_report import audit_path
    from data_builder.shards.splits import SplitPlan

    plan = SplitPlan(args.split, args.folds, args.fold, args.seed)
    report = audit_path(args.src, plan, args.key, args.splits)
    print(report.text)
    return report.status


def _lookup(args: argparse.Namespace) -> int:
    from data_builder.pseudonyms import Lookup, key_path, lookup_places

    key = key_path(args.key)
    places = {path for path in lookup_places(key) if path.exists()} if key else set()
    meanings = [m for path in places for m in Lookup(path, read_only=True).find(args.pseudonym)]
    if not meanings:
        raise InputError("that pseudonym is not in the lookup of this key: give its --key")
    print("\n".join(sorted(set(meanings))))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""

    def command() -> int:
        args, unknown = parser().parse_known_args(argv)
        if unknown:  # argparse would print the words, and a path may hold a name
            raise InputError("the command line has a word too many: quote a path with spaces")
        run: Command = args.run
        return run(args)

    try:
        return run_command(command)
    except BrokenPipeError:
        # Python flushes standard output again at exit; /dev/null keeps that from failing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
