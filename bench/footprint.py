"""Size of the environment it runs in, and its largest packages: `make demo` promises at most 400 MB.

python -m bench.footprint
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_MB = 400


def megabytes(folder: Path) -> float:
    """Gives what the files below `folder` take, links not followed."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6


def main() -> None:
    prefix = Path(sys.prefix)
    (packages,) = prefix.glob("lib/python*/site-packages")
    sizes = {path.name: megabytes(path) for path in packages.iterdir() if path.is_dir()}
    for name, size in sorted(sizes.items(), key=lambda entry: -entry[1])[:8]:
        print(f"{size:8.1f} MB  {name}")
    print(f"{megabytes(prefix):8.1f} MB  in all, of at most {LIMIT_MB} for the demonstration")


if __name__ == "__main__":
    main()
