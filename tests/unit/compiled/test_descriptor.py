"""The descriptor of a step: what Python sets is what the step reads."""

import numpy as np
import pytest

from distbp.compiled.descriptor import DESCRIPTOR, Binding


def test_both_sides_have_the_same_layout():
    binding = Binding()
    for number, name in enumerate(DESCRIPTOR.names, 1):
        setattr(binding.fields, name, number)
    read = np.frombuffer(binding.fields, DESCRIPTOR)
    assert [read[name].item() for name in DESCRIPTOR.names] == list(range(1, len(read[0]) + 1))


def test_a_clock_reading_goes_behind_the_times():
    """`timespec` is the address of the two numbers that the clock writes."""
    binding = Binding()
    offset = binding.fields.timespec - binding.address
    assert offset == DESCRIPTOR.fields["seconds"][1]
    assert DESCRIPTOR.fields["nanoseconds"][1] == offset + 8


@pytest.mark.parametrize(("name", "value"), [("stepz", 1), ("steps", 1.5)])
def test_a_wrong_name_or_type_is_an_error(name, value):
    with pytest.raises((AttributeError, TypeError)):
        setattr(Binding().fields, name, value)
