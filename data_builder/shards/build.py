"""From any source to shards in one call: the DICOM tree is cleaned first, into the data folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.pseudonyms import Lookup, Pseudonyms, load_key, lookup_path
from data_builder.shards import ich_ct
from data_builder.shards.files import metadata
from data_builder.shards.sources import kind_of, open_source, published_meanings
from data_builder.shards.splits import SplitPlan


def prepare(
    source: Path,
    data_dir: Path,
    plan: SplitPlan,
    size: int,
    key: str | None,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Shards of `source`, built unless they are there; returns their folder.

    `key` names the site's key for pseudonyms (`subjects.load_key`). A folder of DICOM is cleaned
    (robust mode) into `data_dir/cleaned/<pseudonym of its path>`. Raises InputError.
    """
    pseudonyms = Pseudonyms(load_key(key))
    if kind_of(source) == "dicom":
        name = pseudonyms.file(str(source.resolve()))
        cleaned = data_dir / "cleaned" / name
        clean_folder(source, cleaned, mode="robust", jobs=None, key=key, image_format="png")
        source = cleaned
    opened = open_source(source, pseudonyms)
    lookup = lookup_path(key)
    if opened.kind == "published" and lookup:
        database = Lookup(lookup)
        database.add(published_meanings(opened))
        database.close()
    folder = ich_ct.build(opened, data_dir, plan, size, beam_options)
    if plan.by == "slice":
        _warn_of_leak(metadata(folder)["leak"])
    return folder


def _warn_of_leak(size: dict[str, int]) -> None:
    print(
        f"warning: split by slice: {size['with_sibling_in_training']} of {size['test_slices']} "
        "test slices have a sibling of the same subject in training; the figures will flatter",
        file=sys.stderr,
    )
