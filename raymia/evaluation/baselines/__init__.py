"""Blind baselines: classifiers that never see the attacked model, one file each."""
