"""From scanner to shards: `python -m data_builder COMMAND --help` tells each command's use."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from data_builder.errors import InputError, run_command

EXAMPLES = {
    "phantom": "python -m data_builder phantom --out scans --subjects 40",
    "clean": "python -m data_builder clean scans --out cleaned",
    "review": "python -m data_builder review cleaned --dicom scans",
    "build": "python -m data_builder build cleaned --data_dir data --folds 5 --fold 0",
    "audit": "python -m data_builder audit cleaned --folds 5 --fold 0",
    "lookup": "python -m data_builder lookup sli-abcdefghijklmnop",
}


def parser() -> argparse.ArgumentParser:
    """The command line; heavy modules are imported by the command that needs them."""
    top = argparse.ArgumentParser(prog="python -m data_builder", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=what, description=what, epilog=f"example: {EXAMPLES[name]}"
        )

    def jobs(of: argparse.ArgumentParser) -> None:
        of.add_argument("--jobs", type=int, help="processes (default: one a core)")

    def key(of: argparse.ArgumentParser) -> None:
        of.add_argument(
            "--key",
            help="file with the site's key for pseudonyms, made on first use (default: in your "
            "config folder); 'public' for phantoms and tests",
        )

    def split(of: argparse.ArgumentParser) -> None:
        of.add_argument("--split", choices=("subject", "slice"), default="subject")
        of.add_argument("--folds", type=int, default=0, help="0: one 80/10/10 split (default)")
        of.add_argument("--fold", type=int, default=0, help="the fold that tests")
        of.add_argument("--seed", type=int, default=0, help="of the split")

    phantom = command("phantom", "Make up head studies as DICOM; they say nothing about patients.")
    phantom.add_argument("--out", type=Path, required=True, help="folder to write")
    phantom.add_argument("--subjects", type=int, default=120, help="how many (default 120)")
    phantom.add_argument("--seed", type=int, default=0, help="another seed, other heads")
    jobs(phantom)

    clean = command("clean", "DICOM to cleaned 8-bit slices, manifest.csv and refused.csv.")
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
    jobs(clean)
    key(clean)

    review = command("review", "A page on which people keep, drop and label cleaned slices.")
    review.add_argument("dir", type=Path, metavar="DIR", help="a folder that clean made")
    review.add_argument("--port", type=int, default=8765, help="default 8765; 0: a free one")
    review.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    review.add_argument("--dicom", type=Path, metavar="SRC", help="what was cleaned, to show in HU")
    review.add_argument(
        "--predictions", type=Path, metavar="FILE", help="predictions.csv, for an order of work"
    )
    review.add_argument(
        "--labels", type=Path, metavar="FILE", help="take a labels.csv in, as --reader, and end"
    )
    review.add_argument("--reader", default="labels.csv", help="whose labels --labels are")
    review.add_argument(
        "--export", type=Path, metavar="OUT", help="write what build takes, and end"
    )
    key(review)

    build = command("build", "Labelled slices to shards, split by subject.")
    build.add_argument("src", type=Path, metavar="SRC", help="published layout, cleaned, or DICOM")
    build.add_argument("--data_dir", type=Path, required=True, help="where data sets lie")
    build.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    split(build)
    build.add_argument("--runner", choices=("local", "beam"), default="local")
    build.add_argument(
        "--beam_options",
        default="",
        help="Beam's pipeline options in quotes, such as '--runner=FlinkRunner "
        "--flink_master=HOST:8081' (default: its DirectRunner)",
    )
    key(build)

    audit = command(
        "audit",
        "Tells of leaks, copies, labels and confounds; status 1 on a leak or a damaged shard.",
    )
    audit.add_argument(
        "src", type=Path, metavar="SRC", help="published layout, cleaned, or a built data set"
    )
    split(audit)
    audit.add_argument("--splits", type=Path, help="a splits.csv to audit instead")
    key(audit)

    lookup = command("lookup", "What a pseudonym stands for; for the person on site.")
    lookup.add_argument("pseudonym")
    key(lookup)
    return top


def run(args: argparse.Namespace) -> int:
    """Runs one command; the exit status is 0, or 1 where a part was refused or a leak found."""
    if args.command == "phantom":
        from data_builder.phantom import write_studies

        made = write_studies(args.out, args.subjects, args.seed, args.jobs)
        print(f"{args.out}: {made}")
        return 0
    if args.command == "clean":
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
        return 1 if summary.refused else 0
    if args.command == "review":
        return _review(args)
    if args.command == "build":
        from data_builder.shards.build import prepare
        from data_builder.shards.splits import SplitPlan

        plan = SplitPlan(args.split, args.folds, args.fold, args.seed)
        if args.beam_options and args.runner != "beam":
            raise InputError("--beam_options is for --runner beam: give both")
        beam = shlex.split(args.beam_options) if args.runner == "beam" else None
        print(prepare(args.src, args.data_dir, plan, args.size, args.key, beam))
        return 0
    if args.command == "audit":
        from data_builder.shards.audit_report import audit_path
        from data_builder.shards.splits import SplitPlan

        plan = SplitPlan(args.split, args.folds, args.fold, args.seed)
        report = audit_path(args.src, plan, args.key, args.splits)
        print(report.text)
        return report.status
    from data_builder.pseudonyms import Lookup, lookup_path

    path = lookup_path(args.key)
    found = Lookup(path).find(args.pseudonym) if path and path.exists() else []
    if not found:
        raise InputError("that pseudonym is not in the lookup of this key: give its --key")
    print("\n".join(found))
    return 0


def _review(args: argparse.Namespace) -> int:
    from data_builder.review import command

    answers = command.open_review(args.dir, args.dicom, args.predictions, args.key)
    if args.labels:
        print(f"{args.dir}: {command.take_labels(answers, args.labels, args.reader, args.key)}")
    if args.export:
        print(f"{args.export}: {command.write_export(answers, args.export)}")
    if not (args.labels or args.export):
        command.serve(answers, args.host, args.port)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""

    def command() -> int:
        args, more = parser().parse_known_args(argv)
        if more:  # argparse would repeat them, and a path may hold a name
            raise InputError("the command line has a word too many: quote a path with spaces")
        return run(args)

    try:
        return run_command(command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
