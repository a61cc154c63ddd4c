"""The weight formats of the kernels: one file each, and a row in `CODECS`.

What a format means is defined in `quant`; a codec says how the loops of the products read it.
"""

from __future__ import annotations

from .bf16 import Bf16
from .codec import Codec
from .q2s import Q2S
from .q3s import Q3S
from .q4 import Q4
from .q4s import Q4S
from .q6 import Q6
from .q8 import Q8

CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (Bf16(), Q8(), Q6(), Q4(), Q4S(), Q3S(), Q2S())
}
