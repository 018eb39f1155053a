"""Records without images, for the tests of splits."""

from data_builder.records import Record


def records(
    subjects_of: dict[str, int], slices: int = 3, shared: tuple[tuple[str, str], ...] = ()
) -> list[Record]:
    """Makes subjects of each class with `slices` slices; each pair in `shared` has one in common.

    The first subject of class deep is deep0, its slices deep0-0 and so on; a shared slice is -x.
    """
    made = [
        Record(
            key=f"{stratum}{subject}-{index}",
            image="",
            hemorrhage=int(stratum != "normal"),
            location="" if stratum == "normal" else stratum,
            subject=f"{stratum}{subject}",
            study="",
            position_mm=0.0,
            digest=f"{stratum}{subject}-{index}",
        )
        for stratum, count in subjects_of.items()
        for subject in range(count)
        for index in range(slices)
    ]
    for one, other in shared:
        made.append(Record(f"{one}-x", "", 0, "", one, "", 0.0, f"{one}{other}"))
        made.append(Record(f"{other}-x", "", 0, "", other, "", 0.0, f"{one}{other}"))
    return made
