import numpy as np

from data_builder.phantom.head import sample_head
from tests.helpers.phantoms import SEED


def test_ventricles_grow_with_age():
    heads = [sample_head(np.random.default_rng((SEED, s, 0))) for s in range(200)]
    age, size = np.array([(h.age, h.ventricle) for h in heads]).T
    assert np.corrcoef(age, size)[0, 1] > 0.7
