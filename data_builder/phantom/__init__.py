"""Makes synthetic head-CT studies and writes them as DICOM with their labels.

**Phantom results say nothing about patients.** Phantoms present the pipeline with what a scanner
would (geometry, holder, noise, artefacts, pixel padding), and their known voxels test cleaning. A
model that does well on them has learnt to detect drawn blobs. `head.DIFFICULTY` fixes how hard
they are.
"""

from data_builder.phantom.folder import PhantomCounts, Visit, plan, write_studies
from data_builder.phantom.head import DIFFICULTY, HEAD_CLASSES, Tissue
from data_builder.phantom.scan import PhantomStudy, make_study

__all__ = [
    "DIFFICULTY",
    "HEAD_CLASSES",
    "PhantomCounts",
    "PhantomStudy",
    "Tissue",
    "Visit",
    "make_study",
    "plan",
    "write_studies",
]
