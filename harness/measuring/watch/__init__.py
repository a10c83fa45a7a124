"""What the cores, the host and the card do while something is timed. Timing itself is harness.measuring."""
