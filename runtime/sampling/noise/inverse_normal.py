"""The inverse of the normal distribution, by a rule that gives the same bits everywhere.

Wichura's algorithm AS 241 (PPND16, 1988): a ratio of two polynomials of degree 7, in the middle of
the distribution of the share itself, in its tails of ``sqrt(-log(share))``. It uses sums, products,
quotients and square roots alone, each of which IEEE 754 rounds correctly, in the order that is
written here. C libraries' logarithms are not: they differ in the last bit. So it has its own.

A value is within 2e-15, relative, of the true one, and ``logarithm`` within 3e-16 of the larger of
its value and 1 (tests/runtime/sampling/noise/test_inverse_normal.py measures both). Rounded to
float32, that is the nearest number but for one in some million.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]
Coefficients = tuple[float, ...]

MIDDLE = 0.425  # how far from one half the first ratio goes
SMALLEST = 1.4e-11  # exp(-25): below it, AS 241 has a third ratio that is not needed here
SQRT_HALF, LOG_2 = 0.7071067811865476, 0.6931471805599453
# 2 / (2 k + 1): of the series 2 atanh(s) = sum of 2 s**(2 k + 1) / (2 k + 1).
ATANH: Coefficients = tuple(2 / (2 * k + 1) for k in range(12))

# Numerator and denominator, the constant first.
IN_THE_MIDDLE: tuple[Coefficients, Coefficients] = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
IN_THE_TAILS: tuple[Coefficients, Coefficients] = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)


def inverse_normal(share: Table) -> Table:
    """Where the standard normal distribution has this share of itself below.

    Args:
        share: float64, in [SMALLEST, 1 - SMALLEST].
    """
    centred = share - 0.5
    value: Table = centred * _ratio(IN_THE_MIDDLE, MIDDLE * MIDDLE - centred * centred)
    tail = np.abs(centred) > MIDDLE
    outer = np.minimum(share[tail], 1.0 - share[tail])
    far = _ratio(IN_THE_TAILS, np.sqrt(-logarithm(outer)) - 1.6)
    value[tail] = np.where(centred[tail] < 0, -far, far)
    return value


def logarithm(number: Table) -> Table:
    """The natural logarithm of float64 numbers above 0, by its series.

    With ``number = m * 2**e`` and m in [sqrt(1/2), sqrt(2)), it is ``e * log(2) + 2 * atanh(s)``,
    where ``s = (m - 1) / (m + 1)`` is at most 0.172.
    """
    mantissa, exponent = np.frexp(number)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, 2.0 * mantissa, mantissa)
    exponent = exponent.astype(np.float64) - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    value: Table = exponent * LOG_2 + s * _polynomial(ATANH, s * s)
    return value


def _ratio(coefficients: tuple[Coefficients, Coefficients], at: Table) -> Table:
    numerator, denominator = (_polynomial(each, at) for each in coefficients)
    return numerator / denominator


def _polynomial(coefficients: Coefficients, at: Table) -> Table:
    """By Horner's rule, from the last coefficient to the first."""
    value = np.full_like(at, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * at + coefficient
    return value
