"""3-bit weights in rows with a scale: 8 values; 3.25 bits each, and the heads. See `row_scaled`.

Tile of 16 rows x 32 columns, 208 bytes: 2 lines of 64 bytes with the lower two bits of each code,
column group 4p + j of the 8 groups in `tiles` in bits 2j and 2j + 1 of line p; 1 line with the
upper bit, group g in bit g; then 16 scale bytes. Relative RMS error 0.146 on Gaussian weights.

The values are those of IQ3_K: `iq3nl_values`,
https://github.com/ikawrakow/ik_llama.cpp/blob/8337e4c/ggml/src/ggml-common.h
"""

from __future__ import annotations

from .row_scaled import RowScaled

FORMAT = RowScaled(
    values=(-63, -40, -23, -10, 1, 13, 28, 47),
    step=4,
    targets=(
        (-79, -73, -69, -65, -62, -58, 58),
        (-76, -70, -66, -62, -58, 55, 60),
    ),
    planes=(2, 1),
)
