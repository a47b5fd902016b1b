"""Measurements that can be trusted on a shared machine: `barograph bench NAME`.

How a figure is made:

1. A *bench* is a list of *cases*; a case measures one or a few *rows* of the result (`measure.Row`).
2. Streams are made from a seed (`synthetic`), so everybody measures the same records. What the engine's book holds at
   the end is compared with a slow book of plain dicts (`oracle`): a fast wrong answer ends the bench with an error.
3. A case runs what it measures and its baseline in turns, k times, on the same data in the same process
   (`measure.interleave`). The median counts, minimum and maximum are told. Time is process CPU time unless the unit
   says wall.
4. Before each case two kernels that never change are timed (`calibration`). When they run more than 1.5 times slower
   than on a quiet machine, the result says `noisy` and no gate is judged.
5. Gates are ratios to a baseline of the same run. Absolute figures are aims on a quiet reference machine.

`report` makes one document of it, for programs and for people. `engine_bench` holds the cases of the engine; `peers`
runs other people's order books in an environment of their own.
"""
