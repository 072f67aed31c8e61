"""What a run is: its record, its columns, its files, and how it is doing. Neither torch nor Ray is needed to read one."""
