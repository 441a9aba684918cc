"""What each TPU chip can do, as Google publishes it.

Sources, all read in 2026:

- v3: https://cloud.google.com/tpu/docs/v3 (peak, HBM). Interconnect: 4 links of 70 GB/s each way
  (Jouppi et al. 2023, arXiv:2304.01433, table 4).
- v4: https://cloud.google.com/tpu/docs/v4 (peak, HBM). Interconnect: 6 links of 50 GB/s each way
  (the same table).
- v5e: https://cloud.google.com/tpu/docs/v5e (peak, HBM 819 GB/s, interconnect 1,600 Gbps; today's
  edition of the page says 400 GB/s, which counts both directions).
- v5p: https://cloud.google.com/tpu/docs/v5p (peak, HBM 2,765 GB/s, interconnect 4,800 Gbps).
- v6e: https://cloud.google.com/tpu/docs/v6e (peak, HBM 1,638 GB/s, interconnect 800 GB/s both
  directions together).

How large the HBM is, and how much of it a program may use, the compiler says (`topology.py`).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU; rates are of a chip, which may be two devices.

    Attributes:
      name: as in topologies, 'v5e'.
      peak_flops: bfloat16 floating-point operations a second.
      hbm_bandwidth: bytes a second between it and the cores.
      interconnect_bandwidth: bytes a second that a chip can send over all its links at once, in
        one direction.
      dimensions: of the torus, 2 or 3.
      pod: chips of the largest slice.
      shapes: usual slices, the smallest first.
      devices_per_chip: how many JAX sees; the two cores of v4 and v5p act as one.
      config: libtpu's name of that way to use the chip, where it is not the default.
      source: of the figures.
    """

    name: str
    peak_flops: float
    hbm_bandwidth: float
    interconnect_bandwidth: float
    dimensions: int
    pod: int
    shapes: tuple[str, ...]
    devices_per_chip: int = 1
    config: str = ''
    source: str = ''


_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBE = ('1x1x1', '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8')
_DOCS = 'https://cloud.google.com/tpu/docs'

CHIPS = {chip.name: chip for chip in (
    # The smallest slice of v3 has four chips.
    Chip('v3', 123e12, 900e9, 280e9, 2, 1024, _FLAT[1:], devices_per_chip=2,
         source=f'{_DOCS}/v3; arXiv:2304.01433, table 4'),
    Chip('v4', 275e12, 1200e9, 300e9, 3, 4096, _CUBE, config='megacore',
         source=f'{_DOCS}/v4; arXiv:2304.01433, table 4'),
    Chip('v5e', 197e12, 819e9, 200e9, 2, 256, _FLAT, source=f'{_DOCS}/v5e'),
    Chip('v5p', 459e12, 2765e9, 600e9, 3, 6144, _CUBE, source=f'{_DOCS}/v5p'),
    Chip('v6e', 918e12, 1638e9, 400e9, 2, 256, _FLAT, source=f'{_DOCS}/v6e'),
)}
