"""Print the n-th shell command of the README: CI runs what a newcomer is told to run."""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
print(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[int(sys.argv[1]) - 1].strip())
