"""Keep the numbers of finished runs in results/ and regenerate docs/results.md from them.

python scripts/record_result.py runs/lenet_mnist/*     keep these runs
python scripts/record_result.py                        only regenerate docs/results.md
python scripts/record_result.py --check                only say whether docs/results.md agrees with results/
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.errors import UsageError
from jaxcnn.files import write_atomically
from jaxcnn.report.results import COMMAND, read_results, record, render

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Keep the numbers of finished runs; regenerate docs/results.md.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--check", action="store_true", help="only verify that docs/results.md is up to date")
    options = parser.parse_args(arguments)
    if options.check and options.runs:
        parser.error("--check takes no RUN")
    document = root / "docs" / "results.md"
    try:
        for folder in record(options.runs, root / "results"):
            print(f"recorded {folder.relative_to(root)}")
        text = render(read_results(root / "results")).encode()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.check:
        write_atomically(document, text)
    elif not document.exists() or document.read_bytes() != text:
        print(f"docs/results.md does not agree with results/: run {COMMAND}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
