"""A package of somebody else's that adds to raymia: one file for each thing, named in entry_points.txt."""
