"""Download the data sets and Gluon's pre-trained weights. A file that is there and right is not downloaded again.

python scripts/fetch_data.py                              # all of them, about 400 MB
python scripts/fetch_data.py --only cifar100 fashion_mnist
python scripts/fetch_data.py --only gluon --models resnet18_v1 resnet34_v1
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pooch

from leep.data.fetch import DATA_SETS, GLUON_MODELS, fetch_data_set, fetch_weights
from leep.errors import LeepError

GLUON = "gluon"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*DATA_SETS, GLUON]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, metavar="WHAT", help=", ".join(choices))
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: $MXNET_HOME/datasets)")
    parser.add_argument(
        "--models", nargs="+", default=GLUON_MODELS, help="models whose weights are downloaded ($MXNET_HOME/models)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Fetch what was asked for. The exit status is 1 if something failed, after all the rest was tried."""
    options = parse(arguments)
    pooch.get_logger().setLevel(logging.WARNING)
    jobs = [(fetch_data_set, name, options.root) for name in options.only if name != GLUON]
    jobs += [(fetch_weights, model) for model in options.models] if GLUON in options.only else []
    failed = False
    for fetch, *values in jobs:
        try:
            print(fetch(*values), flush=True)
        except (LeepError, OSError) as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
