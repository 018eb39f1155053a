"""A page on which readers keep, drop and label slices: `python -m data_builder review DIR`."""
