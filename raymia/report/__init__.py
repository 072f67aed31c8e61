"""What people look at: plots and a self-contained page."""
