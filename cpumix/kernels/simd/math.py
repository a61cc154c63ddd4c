"""Functions of 16 lanes: exp and what is made of it."""

from __future__ import annotations

from ..compile.jit import kernel
from .lanes import add, add_i32, as_f32, div, fma, mul, rint, shift_left, sub, to_i32, where_greater
from .vectors import Lanes, splat, splat_i32

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # ln 2 in two parts: n x the first is exact
LOWEST, HIGHEST = -87.0, 88.0  # beyond these 2^n leaves the normal float32 range


@kernel
def exp(x: Lanes) -> Lanes:
    """Return e^x to within 2 units in the last place: 0 below -87, e^88 above 88.

    Source: expf.c of Cephes, https://www.netlib.org/cephes/single.tgz: the reduction x = n ln 2 + r
    and the polynomial in r, of degree 5 beyond 1 + r.
    """
    clamped = where_greater(x, splat(HIGHEST), splat(HIGHEST), x)
    clamped = where_greater(splat(LOWEST), clamped, splat(LOWEST), clamped)
    n = rint(mul(clamped, splat(LOG2_E)))
    r = fma(n, splat(-LN2_LOW), fma(n, splat(-LN2_HIGH), clamped))
    p = fma(splat(1.9875691500e-4), r, splat(1.3981999507e-3))
    p = fma(p, r, splat(8.3334519073e-3))
    p = fma(p, r, splat(4.1665795894e-2))
    p = fma(p, r, splat(1.6666665459e-1))
    p = fma(p, r, splat(5.0000001201e-1))
    p = add(fma(p, mul(r, r), r), splat(1.0))
    power = as_f32(shift_left(add_i32(to_i32(n), splat_i32(127)), splat_i32(23)))
    return where_greater(splat(LOWEST), x, splat(0.0), mul(p, power))


@kernel
def silu(x: Lanes) -> Lanes:
    """Return x / (1 + e^-x)."""
    return div(x, add(splat(1.0), exp(sub(splat(0.0), x))))
