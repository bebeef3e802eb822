"""`python -m seqwright`: the command line, for `torchrun -m seqwright` above all."""

from seqwright.cli import main

main()
