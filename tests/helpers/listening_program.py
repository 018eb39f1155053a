"""Runs a listener that answers studies with synthetic numbers; argv: its settings as JSON."""

import json
import logging
import sys
from pathlib import Path

import pydicom

from data_builder.pseudonyms import PUBLIC_KEY
from dtvit_jax.dicom.secondary_capture import Overlay
from dtvit_jax.dicom.write import write_objects
from dtvit_jax.pacs.arrivals import Pace
from dtvit_jax.pacs.connections import ConnectionLimits
from dtvit_jax.pacs.listener import serve
from dtvit_jax.pacs.receiver import Listening
from dtvit_jax.pacs.sender import read_peer
from dtvit_jax.pacs.spool import Limits, Spool
from tests.helpers.answers import MODEL, answer_for, overlay_image


def main():
    logging.basicConfig(level=logging.DEBUG)  # the most that a program could log
    logging.debug("libraries log to standard error")
    settings = json.loads(sys.argv[1])
    out = Path(settings["out"])

    def handle(study):
        sources = [pydicom.dcmread(path) for path in sorted(study.iterdir())]
        answer = answer_for(sources, key=study.name)
        overlays = [Overlay(0, overlay_image(), "synthetic map")]
        objects = write_objects(out / "dicom", answer, sources, MODEL, overlays)
        print(f"answered {study.name} of {len(sources)}", flush=True)
        return objects

    peer = read_peer(settings["send_to"]) if "send_to" in settings else None
    connections = ConnectionLimits(**settings.get("connections", {}))
    pace = Pace(**settings.get("pace", {}))
    listening = Listening(
        0,
        "DTVIT",
        ("KNOWN",),
        quiet=settings["quiet"],
        send_to=peer,
        connections=connections,
        pace=pace,
    )
    limits = Limits(**settings.get("limits", {}))
    with Spool(out / "spool", PUBLIC_KEY, limits) as spool:
        return serve(listening, spool, handle)


if __name__ == "__main__":
    sys.exit(main())
