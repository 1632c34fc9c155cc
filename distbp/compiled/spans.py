"""The spans of a profile, which compiled steps write themselves."""

import numpy as np

from distbp.compiled.intrinsics import kernel, vector_at


@kernel
def add_span(d, name, began, ended):
    """Add a span to the profile, if there is one."""
    if d.spans != 0:
        numbers = vector_at(d.spans, d.spans_size, np.int64)
        place = d.spans_place
        numbers[place], numbers[place + 1], numbers[place + 2] = name, began, ended
        d.spans_place = place + 3
        if d.spans_place == d.spans_size:
            d.spans_place = 0
            d.spans_rounds += 1
