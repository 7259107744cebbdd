"""`python -m egem` and `torchrun -m egem` start the same command line as `egem`."""

from egem.cli import main

if __name__ == "__main__":
    main()
