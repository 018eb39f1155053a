"""A listener whose studies are answered with made-up numbers; argv: its settings as JSON."""

import json
import sys
from pathlib import Path

import pydicom

from data_builder.pseudonyms import PUBLIC_KEY
from dtvit_jax.dicom.write import Overlay, write_objects
from dtvit_jax.pacs.listener import serve
from dtvit_jax.pacs.receiver import Listening
from dtvit_jax.pacs.sender import read_peer
from dtvit_jax.pacs.spool import Limits, Spool
from tests.helpers.answers import MODEL, answer_for, overlay_image


def main():
    asked = json.loads(sys.argv[1])
    out = Path(asked["out"])

    def handle(study):
        sources = [pydicom.dcmread(path) for path in sorted(study.iterdir())]
        answer = answer_for(sources, key=study.name)
        overlays = [Overlay(0, overlay_image(), "made-up map")]
        objects = write_objects(out / "dicom", answer, sources, MODEL, overlays)
        print(f"answered {study.name} of {len(sources)}", flush=True)
        return objects

    peer = read_peer(asked["send_to"]) if "send_to" in asked else None
    listening = Listening(0, "DTVIT", ("KNOWN",), quiet=asked["quiet"], send_to=peer)
    limits = Limits(**asked.get("limits", {}))
    with Spool(out / "spool", PUBLIC_KEY, limits) as spool:
        return serve(listening, spool, handle)


if __name__ == "__main__":
    sys.exit(main())
