"""Building on many machines: Apache Beam's runner, from pipeline options."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from data_builder.errors import InputError


def settings(options: Sequence[str]) -> dict[str, Any]:
    """`beam_runner` and `beam_options` for TFDS, from options such as --runner=FlinkRunner.

    Without a runner it is Beam's DirectRunner, on this machine. Raises InputError without Beam, or
    for options that it does not take.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            "--runner beam needs Apache Beam: install the extra 'beam' in an environment of its "
            "own (docs/data.md says how)"
        )
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    try:
        parsed = PipelineOptions(list(options))
        runner = parsed.view_as(StandardOptions).runner or "DirectRunner"
    except SystemExit as error:  # of its argument parser, which has said why
        raise InputError(f"Beam does not take the options {' '.join(options)!r}") from error
    return {"beam_runner": runner, "beam_options": parsed}
