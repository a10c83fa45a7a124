"""Tests of estimators/machine."""
