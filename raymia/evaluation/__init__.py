"""What scores mean: ROC curves, intervals, blind baselines and a verdict."""
