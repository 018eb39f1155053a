"""The coded concepts of the structured report.

A concept is coded with a code of the standard where pydicom's tables hold one that says the same,
no more and no less. The rest stands in the private scheme 99DTVIT with its meaning: 'intracranial
hemorrhage' (in the tables) is more than the model looks for, so 'none found' under it would say
too much; 'intracerebral hemorrhage' is in no table.
"""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

SCHEME = "99DTVIT"

NOTICE = "Research use, not for clinical use"
"""Stands in every object: as text, as series description, and burnt into pixels."""


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


PROCEDURE = codes.LN.HeadCT
FINDING = _own("ICH", "Intracerebral hemorrhage")
FINDING_CATEGORY = codes.SCT.IntracranialHemorrhage
SITE = codes.SCT.Brain
SITE_MODIFIERS = {
    "deep": codes.SCT.Deep,
    "lobar": _own("LOBAR", "Lobar: cortex and white matter under it"),
    "subtentorial": _own("SUBTENTORIAL", "Subtentorial: brain stem and cerebellum"),
}
"""Topographical modifiers of SITE, by location."""

PROBABILITY = codes.DCM.Probability
PROBABILITY_OF_LOCATION = _own("P-LOCATION", "Probability of location, given hemorrhage")
THRESHOLD = _own("THRESHOLD", "Threshold on the probability for the decision")
OUTLIER = _own("OUTLIER", "Unlikeness to training slices, above 1 is unlike")
NO_UNITS = codes.UCUM.NoUnits

PRESENCE = codes.DCM.PresenceOfProperty
DECISIONS = {
    "ich": codes.SCT.Present,
    "no ich": codes.SCT.Absent,
    "uncertain": codes.DCM.PresenceUndetermined,
}
"""Values of PRESENCE, by decision."""

OPERATING_POINT = codes.DCM.CADOperatingPointDescription
REASON = _own("REASON", "Reason why it is undetermined")
COMMENT = codes.DCM.Comment
SOURCE_OF_DERIVATION = codes.DCM.SourceImageForImageProcessingOperation


def scheme_item() -> CodingSchemeIdentificationItem:
    """What 99DTVIT is, for Coding Scheme Identification Sequence (0008,0110)."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="DTViT-JAX private codes",
        responsible_organization="DTViT-JAX",
    )
