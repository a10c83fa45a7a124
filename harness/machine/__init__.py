"""The machine in front of us: its fingerprint, and its architecture's profile. Energy counters are energy."""
