"""Measures: one number each, with its interval, of how well a score tells members from non-members."""
