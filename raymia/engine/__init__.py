"""Ray and nothing else: starting it, sizing pools, moving tables, handing in jobs."""
