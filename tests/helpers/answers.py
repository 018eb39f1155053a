"""Synthetic answers of a study over given DICOM objects; no model computed the numbers."""

import dataclasses

import numpy as np

from dtvit_jax.decision.answer import ModelIdentity, SliceAnswer, StudyAnswer

MODEL = ModelIdentity("vit_l16", "0.1.0", "0123456789abcdef" * 4)


def answer_for(sources, **changes):
    """Makes an answer with a slice per frame of each source, and rising probabilities."""
    slices = []
    for file, ds in enumerate(sources):
        frames = int(ds.get("NumberOfFrames") or 0)
        for frame in range(frames) if frames else [None]:
            rank = len(slices)
            slices.append(
                SliceAnswer(
                    f"sli-{rank:016d}", file, frame, float(rank), 1 / 7 + rank / 100,
                    (0.6, 0.3, 0.1), "no ich", 0.25,
                )
            )  # fmt: skip
    answer = StudyAnswer(
        "stu-aaaaaaaaaaaaaaaa", "sub-bbbbbbbbbbbbbbbb", tuple(slices), 2 / 3, (0.7, 0.2, 0.1),
        "ich", "deep", "sensitivity 0.95", 0.4, (),
    )  # fmt: skip
    return dataclasses.replace(answer, **changes)


def overlay_image(rows=64, columns=64):
    """Makes a red square on gray, uint8 [rows, columns, 3]."""
    image = np.full((rows, columns, 3), 90, np.uint8)
    image[rows // 4 : rows // 2, columns // 4 : columns // 2] = (250, 40, 0)
    return image
