"""Write the table of docs/formats.md from the code: `python tools/formats_docs.py`.

`tests/unit/test_formats_docs.py` fails when the page is out of date.
"""

from pathlib import Path

from motley.formats.encode import ENCODABLE
from motley.predict.memory import KEPT_AS, PACKED
from motley.shape.quant import Quant

PAGE = Path(__file__).parent.parent / "docs" / "formats.md"

PAGE_TEXT = """# Quantised formats

Written by `tools/formats_docs.py`; don't edit. What Motley does with each of GGUF's tensor types; any other one (the
ternary TQ1_0 and TQ2_0, Q1_0, integers, F64) is refused in one sentence when a file is opened.

*Read*: decoded to float32 bit for bit as the `gguf` package does it (`tests/unit/test_decode.py`). *Written*:
`formats.encode` can quantise to it; `motley synth` writes random blocks of every one. *On the CPU*: whether the native
kernels have tiles of its own; if not, loading repacks each weight to the tiles of one that holds it exactly, and says
so. Bytes are per weight: in the file, and in memory once repacked.

{table}

- **int8**: 8-bit integers with a float32 scale for 32 or 16 of them, and for Q2_K, Q4_1 and Q5_1 a minimum. Every
  format's values are small integers times a scale, so nothing is rounded; the arithmetic is that of Q8_0 and Q4_K
  (`native/formats.h`, `native/int8_blocks.cpp`). More bytes to read than kernels of its own would: slower than those.
- **`--no-repack`** works for all. Those without kernels of their own are then unpacked at every use, which makes them
  several times slower.
- The embedding table stays in the file in its own format, and rows are decoded as tokens need them.
- Plans count these bytes for devices whose kernels were measured (`motley probe`), and take them for as fast as what is
  kept. Where weights stay in the file, plans take them for as fast as Q8_0 left there, which they are not.
- MXFP4: a block whose scale is 255 is NaN, as the OCP standard says (ggml: 2^128). NVFP4: a scale of 0x7F is zero, as
  in ggml (the standard: NaN). Files of NVFP4 whose matrices have a second scale in a tensor of its own (`*.scale`) are
  refused: it would have to be multiplied in.
- Grids of the IQ formats are one table for both languages, `src/motley/formats/iq_grids.inc`.
"""

_HEAD = "| format | GGUF type | weights, bytes of a block | in the file | read | written | on the CPU | in memory |"


def document() -> str:
    """The whole page."""
    rows = [_row(quant) for quant in sorted(Quant, key=lambda q: -q.block_bytes / q.block)]
    return PAGE_TEXT.format(table="\n".join([_HEAD, "|---" * 8 + "|", *rows]))


def _row(quant: Quant) -> str:
    name, stored = quant.name.lower(), quant.block_bytes / quant.block
    written = "yes" if quant in ENCODABLE else "no"
    kept = f"repacked as {KEPT_AS[name][0]}" if name in KEPT_AS else "own kernel"
    memory = stored * PACKED.get(name, 1.0)
    block = f"{quant.block}, {quant.block_bytes}"
    cells = [quant.name, str(quant.ggml_type), block, f"{stored:.3f}", "yes", written, kept, f"{memory:.3f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    print(f"wrote {PAGE}")
