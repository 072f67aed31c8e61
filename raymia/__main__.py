"""`python -m raymia` is the same as `raymia`."""

from raymia.cli import main

main()
