"""Tests of estimators/tiling."""
