"""The seed and size of the phantoms in tests/data_builder/phantom."""

SEED = 3
SUBJECTS = 3  # of the folder: two normal ones and a subtentorial bleed
