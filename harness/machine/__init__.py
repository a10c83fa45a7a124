"""This machine: its fingerprint, the doctor's report and its launch times; and architectures by name.

Energy counters belong in energy; the format of profiles in estimators/machine.
"""
