"""``python -m robust_encoders``: the command line, for shells that do not find the script ``robust-encoders``."""

from robust_encoders.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
