"""Tests of `raymia.audit`."""
