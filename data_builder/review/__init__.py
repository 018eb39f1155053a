"""The page for manual filtering and labels: `python -m data_builder review DIR`."""
