"""`python -m prob3r`, which launchers of several processes start."""

from prob3r.cli import main

main()
