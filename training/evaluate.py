"""`accelerate launch training/evaluate.py RUN [flags]`, the same as `paco-hf evaluate RUN [flags]` in each process."""

import sys

from paco_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
