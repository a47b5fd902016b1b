"""Our exp and expm1 against exact values, and against another processor's code."""

import os
import subprocess
import sys
from fractions import Fraction
from math import ulp

import numpy as np
import pytest

from engine.exponential import exp, expm1

POINTS = np.concatenate(
    [
        -np.logspace(-18, np.log10(700), 400),
        np.logspace(-18, np.log10(700), 200),
        -np.linspace(0.3, 0.8, 120),
        [0.0, -0.05, -0.01, -1 / 300, -0.34657359, 0.34657360, -5e-10],
    ]
)


def exact_exp(x):
    """e to the x, to about 40 digits: Taylor series of x / 2^12, squared twelve times, as a fraction."""
    step = Fraction(x) / 4096
    term = total = Fraction(1)
    for n in range(1, 16):
        term = term * step / n
        total += term
    for _ in range(12):
        total = Fraction(int(total * total * 2**1200), 2**1200) if total > 2**-900 else total * total
        total = total.limit_denominator(10**420) if total.denominator.bit_length() > 5000 else total
    return total


@pytest.mark.parametrize(("function", "offset", "limit"), [(exp, 0, 1.0), (expm1, 1, 2.0)])
def test_error_in_units_of_the_last_place(function, offset, limit):
    worst = 0.0
    for x in POINTS:
        exact = exact_exp(float(x)) - offset
        found = function(float(x))
        if exact:
            worst = max(worst, abs(float((Fraction(found) - exact) / Fraction(ulp(float(exact))))))
        else:
            assert found == float(exact)
    assert worst <= limit


def test_edges():
    assert exp(0.0) == 1.0
    assert exp(-800.0) == 0.0
    assert exp(800.0) == np.inf
    assert np.isnan(exp(np.nan))
    assert np.isnan(expm1(np.nan))
    assert expm1(0.0) == 0.0
    assert expm1(-50.0) == -1.0
    assert expm1(-1e-300) == -1e-300


PROGRAM = """
import hashlib
import numpy as np
from numba import njit
from engine.exponential import exp, expm1

@njit
def both(xs, out):
    for i in range(len(xs)):
        out[2 * i] = exp(xs[i])
        out[2 * i + 1] = expm1(xs[i])

xs = -np.random.default_rng(5).exponential(1.0, 20_000) ** 3
out = np.empty(2 * len(xs))
both(xs, out)
print(hashlib.sha256(out.tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_the_processor(tmp_path):
    digests = set()
    for cpu in ("host", "generic"):
        env = dict(os.environ, NUMBA_CPU_NAME=cpu, NUMBA_CACHE_DIR=str(tmp_path / cpu))
        if cpu == "generic":
            env["NUMBA_CPU_FEATURES"] = ""
        run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1
