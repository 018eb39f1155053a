"""Translates Apache Beam's pipeline options for TFDS, to build on many machines."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from data_builder.errors import InputError


def download_options(options: Sequence[str]) -> dict[str, Any]:
    """Makes `beam_runner` and `beam_options` of TFDS's DownloadConfig.

    `options` are Beam's, such as --runner=FlinkRunner; without a runner Beam's DirectRunner works,
    on this machine. Raises InputError where Beam is not installed or rejects the options.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            "--runner beam needs Apache Beam: install the extra 'beam' in an environment of its "
            "own (docs/shards.md says how)"
        )
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    try:
        pipeline = PipelineOptions(list(options))
        runner = pipeline.view_as(StandardOptions).runner or "DirectRunner"
    except SystemExit as error:  # of Beam's argument parser, which has printed the reason
        raise InputError(
            f"Beam rejects the options {' '.join(options)!r}: correct --beam_options"
        ) from error
    return {"beam_runner": runner, "beam_options": pipeline}
