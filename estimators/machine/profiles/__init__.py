"""The built-in architecture profiles: one JSON file a machine, `NAME.json`, read by `estimators.machine.profile.load_profile`.

Conventions (names and units of coefficients: `estimators.machine.catalogue`):

- `levels` runs from the level nearest to the units to the main memory. `capacity.<last level>` is the size of the main memory.
- CPU (`l1 l2 l3 dram`): `capacity.l1` and `capacity.l2` are what ONE core owns, `capacity.l3` is shared; bandwidths are those of
  all cores together.
- GPU (`shared l2 dram`): `capacity.shared` and `capacity.register` belong to one multiprocessor; bandwidths to all of them.
- TPU (`vmem [cmem] dram`): sums over the chip's cores; v1's unified buffer is its `vmem`.
- KPU (`l1 l2 l3 dram`): `capacity.l1` belongs to one tile, `l2` and `l3` are sums over the tiles. Nothing is measured on silicon:
  every number is a configuration's, a simulator's or a design target.
- Peaks are dense (no sparsity), at the clock given. A type that the units do not compute in natively has the rate of the type
  that stands in for it, and the reference says so.
- `clock.highest` is the highest clock that a CPU or GPU ever runs at, often above the one its peaks are named at: no product is
  faster than it allows. Without it none is held to a peak.
- `energy.flop.*` and `energy.byte.*` price energy and meet the power cap. On a GPU they are those of its rated clock
  (`clock.rated`), where a board may ask for more than its cap leaves; elsewhere the low end of a flop is the datapath alone and
  the high end all of (TDP - static power) / peak, so that predicted power stays between idle and TDP.
- A file with a `base` says what differs from another built-in profile: all else is that one's, marked `transferred` where it was
  fitted, and what is null is left out.
- Shares and overheads (efficiencies, overlap, launches) are no part of these files: a calibration adds them, and until then
  `estimators.machine.catalogue.DEFAULTS` stands in.
- `brief_*` are illustrations (`illustrative: true`): round numbers, exempt from the plausibility tests.
"""
