"""`accelerate launch training/train.py [flags]`, the same as `paco-hf train [flags]` in each process."""

import sys

from paco_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
