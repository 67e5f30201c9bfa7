"""Numbers out of their limits are refused with what was expected and what came."""

import math

import numpy as np
import pytest

from tame.utils.checks import InputError
from tame.utils.limits import LIMITS, check_numbers

REFUSED = [
    ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
    ({"batch_size": "3"}, "expected batch_size as a whole number of at least 1, got '3'"),
    ({"batch_size": 2.5}, "expected batch_size as a whole number of at least 1, got 2.5"),
    ({"batch_size": True}, "expected batch_size of at least 1, got True"),
    ({"top": 10**12}, "expected top of at most 2147483647, got 1000000000000"),
    ({"lr": -1}, "expected lr above 0, got -1"),
    ({"lr": math.nan}, "expected lr above 0, got nan"),
    ({"min_lr": math.inf}, "expected min_lr above 0, got inf"),
    ({"clip": -1.0}, "expected clip of at least 0, got -1.0"),
    ({"clip": math.nan}, "expected clip of at least 0, got nan"),
    ({"epochs": -2}, "expected epochs of at least 0, got -2"),
    ({"seed": -1}, "expected seed from 0 to 4294967295, got -1"),
    ({"seed": 2**64}, "expected seed from 0 to 4294967295, got 18446744073709551616"),
    ({"seed": 10**6000}, "expected seed from 0 to 4294967295, got a number of about 6000 digits"),
    ({"num_nodes": 0}, "expected num_nodes from 1 to 65536, got 0"),
    ({"batch_size": 8, "steps": 0}, "expected steps from 1 to 100000, got 0"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_a_number_out_of_its_limits(values, message):
    with pytest.raises(InputError) as error:
        check_numbers(**values)
    assert str(error.value) == message


def test_numbers_in_their_limits_and_what_has_none():
    check_numbers(batch_size=1, epochs=0, seed=2**32 - 1, lr=1e-3, clip=0, top=None, device="cpu", other=-1)
    check_numbers(batch_size=np.int64(3), lr=np.float32(0.1), steps=1)


def test_the_name_is_written_as_the_user_writes_it():
    with pytest.raises(InputError, match="expected --batch-size of at least 1, got 0"):
        check_numbers(lambda name: f"--{name.replace('_', '-')}", batch_size=0)


@pytest.mark.parametrize("name", ["devices", "num_workers"])
def test_so_many_processes_that_the_machine_would_stop_are_refused(name):
    assert 16 <= LIMITS[name].most <= 4096
    with pytest.raises(InputError, match=rf"expected {name} from \d to \d+, got 5000"):
        check_numbers(**{name: 5000})
