"""Tests of estimators/present."""
