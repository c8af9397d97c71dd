"""`python train.py` is `rlvis train`: see `python train.py --help`."""

import sys

from rlvis.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
