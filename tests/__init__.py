"""Tests of Shmoo, and in `evaluation` the commands that judge it on data."""
