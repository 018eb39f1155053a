"""Defines the coded concepts of the structured report.

A concept has a code of the standard where pydicom's tables hold one of exactly its meaning. The
others are in the private scheme 99DTVIT: 'intracranial hemorrhage' (in the tables) is wider than
what the model looks for, so that 'absent' under it would claim too much, and 'intracerebral
hemorrhage' is in no table.
"""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

SCHEME = "99DTVIT"

NOTICE = "Research use, not for clinical use"
"""In every object: as text, as series description, and burnt into the pixels."""


def _private(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


PROCEDURE = codes.LN.HeadCT
FINDING = _private("ICH", "Intracerebral hemorrhage")
FINDING_CATEGORY = codes.SCT.IntracranialHemorrhage
SITE = codes.SCT.Brain
SITE_MODIFIERS = {
    "deep": codes.SCT.Deep,
    "lobar": _private("LOBAR", "Lobar: cortex and white matter under it"),
    "subtentorial": _private("SUBTENTORIAL", "Subtentorial: brain stem and cerebellum"),
}
"""Topographical modifiers of SITE, by location."""

PROBABILITY = codes.DCM.Probability
PROBABILITY_OF_LOCATION = _private("P-LOCATION", "Probability of location, given hemorrhage")
THRESHOLD = _private("THRESHOLD", "Threshold on the probability for the decision")
OUTLIER = _private("OUTLIER", "Unlikeness to training slices, above 1 is unlike")
NO_UNITS = codes.UCUM.NoUnits

PRESENCE = codes.DCM.PresenceOfProperty
DECISIONS = {
    "ich": codes.SCT.Present,
    "no ich": codes.SCT.Absent,
    "uncertain": codes.DCM.PresenceUndetermined,
}
"""Values of PRESENCE, by decision."""

OPERATING_POINT = codes.DCM.CADOperatingPointDescription
REASON = _private("REASON", "Reason why it is undetermined")
COMMENT = codes.DCM.Comment
SOURCE_OF_DERIVATION = codes.DCM.SourceImageForImageProcessingOperation


def scheme_item() -> CodingSchemeIdentificationItem:
    """Describes 99DTVIT for Coding Scheme Identification Sequence (0008,0110)."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="DTViT-JAX private codes",
        responsible_organization="DTViT-JAX",
    )
