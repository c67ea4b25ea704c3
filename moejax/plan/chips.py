"""CHIPS: peak rates of each kind of chip, by its name in a topology.

Peak, memory and bandwidths are the vendor's published figures per chip (Cloud
TPU documentation, "TPU v4", "v5e", "v5p", "v6e", "TPU7x"). Its "inter-chip
interconnect" is the sum over a chip's links in both directions; a chip can send
half of that. Its "data center network" is assumed to be one direction. Nothing
here was measured.

The compiler estimates in cycles of the chip's clock, whose rate is not
published. It is computed as the peak over the FLOPs of all matrix units in a
cycle. Example, v5p: 8 units of 128 x 128, 2 FLOPs each, are 262,144 FLOPs in a
cycle; 459 TFLOP/s / 262,144 = 1.75 GHz.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak rates of one chip, or of one of the devices on it.

  Attributes:
    kind: name of the kind of chip.
    peak: bfloat16 FLOP/s.
    hbm: bytes of memory.
    hbm_bandwidth: bytes/s to and from memory.
    ici_bandwidth: bytes/s that it can send to its neighbours over all links of
      the inter-chip interconnect together.
    flops_per_cycle: FLOPs of all matrix units in a cycle.
    links: dimensions of the torus of chips; each has an equal share of
      `ici_bandwidth`.
    dcn_bandwidth: bytes/s that it can send to other slices, over the network of
      the data centre (DCN).
  """

  kind: str
  peak: float
  hbm: float
  hbm_bandwidth: float
  ici_bandwidth: float
  flops_per_cycle: int
  links: int
  dcn_bandwidth: float

  @property
  def clock(self) -> float:
    """Cycles per second."""
    return self.peak / self.flops_per_cycle

  def split(self, parts: int) -> 'Chip':
    """The rates of one of `parts` equal devices on the chip."""
    return dataclasses.replace(
      self,
      peak=self.peak / parts,
      hbm=self.hbm / parts,
      hbm_bandwidth=self.hbm_bandwidth / parts,
      ici_bandwidth=self.ici_bandwidth / parts,
      flops_per_cycle=self.flops_per_cycle // parts,
      dcn_bandwidth=self.dcn_bandwidth / parts,
    )


GIB, UNIT_128, UNIT_256 = 2**30, 2 * 128**2, 2 * 256**2

CHIPS: dict[str, Chip] = {
  # 275 TFLOP/s, 32 GiB, 1,228 GB/s; 6 links of 50 GB/s each way. DCN is not
  # published: assumed as v5p's, whose hosts have as many chips.
  'v4': Chip(
    'TPU v4', 275e12, 32 * GIB, 1.228e12, 300e9, 8 * UNIT_128, 3, 6.25e9
  ),
  # 197 TFLOP/s, 16 GB, 819 GB/s, 400 GB/s both ways; 6.4 Tbit/s of 256 chips.
  'v5e': Chip(
    'TPU v5e', 197e12, 16 * GIB, 819e9, 200e9, 4 * UNIT_128, 2, 3.125e9
  ),
  # 459 TFLOP/s, 95 GiB, 2,765 GB/s, 1,200 GB/s both ways; 50 Gbit/s.
  'v5p': Chip(
    'TPU v5p', 459e12, 95 * GIB, 2.765e12, 600e9, 8 * UNIT_128, 3, 6.25e9
  ),
  # 918 TFLOP/s, 32 GB, 1,640 GB/s, 800 GB/s both ways; 100 Gbit/s.
  'v6e': Chip(
    'TPU v6e', 918e12, 32 * GIB, 1.64e12, 400e9, 4 * UNIT_256, 2, 12.5e9
  ),
  # 2,307 TFLOP/s, 192 GiB, 7,380 GB/s, 1,200 GB/s both ways; 100 Gbit/s.
  'tpu7x': Chip(
    'TPU7x', 2307e12, 192 * GIB, 7.38e12, 600e9, 8 * UNIT_256, 3, 12.5e9
  ),
}
