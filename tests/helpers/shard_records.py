from data_builder.records import Record


def records(subjects_of: dict[str, int], slices: int = 3, shared: tuple = ()) -> list[Record]:
    """`slices` slices a subject; `shared` pairs of subjects have one slice's content in common."""
    made = []
    for stratum, n in subjects_of.items():
        for s in range(n):
            for i in range(slices):
                key = f"{stratum}{s}-{i}"
                made.append(
                    Record(
                        key=key,
                        image="",
                        hemorrhage=int(stratum != "normal"),
                        location="" if stratum == "normal" else stratum,
                        subject=f"{stratum}{s}",
                        study="",
                        position_mm=0.0,
                        digest=key,
                    )
                )
    for one, other in shared:
        made.append(Record(f"{one}-x", "", 0, "", one, "", 0.0, f"{one}{other}"))
        made.append(Record(f"{other}-x", "", 0, "", other, "", 0.0, f"{one}{other}"))
    return made
