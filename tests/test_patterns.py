"""Every regular expression of the package takes time in proportion to the text, whatever the text is."""

from __future__ import annotations

import subprocess
import sys

# For each pattern: far more than it takes if it is linear, and less than it takes if it is not: 40,000 times
# 40,000 steps for one text.
CPU_SECONDS = 4

SCRIPT = f"""
import importlib, math, pkgutil, re, resource, time
import flowbed

SKIPPED = ("flowbed.testing", "flowbed.__main__", "flowbed.ledger.sql.migrations.env")
# Packages of environments of their own; modules that import them have no patterns.
ELSEWHERE = ("aws_cdk", "constructs", "haystack", "langchain_core", "llama_index")
patterns = {{}}
for module in pkgutil.walk_packages(flowbed.__path__, "flowbed."):
    if module.name.startswith(SKIPPED) or module.name.endswith("__main__"):
        continue
    try:
        imported = importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] in ELSEWHERE:
            continue
        raise
    for name, value in vars(imported).items():
        if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
            patterns[value.pattern, value.flags] = f"{{module.name}}.{{name}}"
SIZE = 40_000
UNITS = [" ", "\\t", "\\n", "\\r", "\\r\\n", "a", "1", "-", "=", "# ", "{{#", "{{#}} ", "\\n---", "\\n--- ", "。"]
UNITS += ["\\x00", "[a]", "model ", "1.", "batch size 1", "max ", "<Code>", "\\ud800", "a b"]
STARTS = ["", "---\\n", "a", "at "]
for (pattern, flags), name in patterns.items():
    print(name, flush=True)
    most = math.ceil(time.process_time()) + {CPU_SECONDS}
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    compiled = re.compile(pattern, flags)
    for start in STARTS:
        for unit in UNITS:
            text = start + unit * (SIZE // len(unit)) + "!"
            # What comes after a start is found as it is without one.
            compiled.match(text) if start else sum(1 for _ in compiled.finditer(text))
            compiled.fullmatch(text)
# The end of a process that has loaded everything is not measured.
resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("checked", len(patterns))
"""


def test_patterns_take_linear_time() -> None:
    """No compiled pattern runs for more than a moment on 40,000 characters that are made to hold it up."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=600, check=False
    )
    last = done.stdout.splitlines()[-1:] or [done.stderr]
    assert done.returncode == 0, f"stopped in {last[0]}: {done.stderr[-2000:]}"
    assert int(last[0].removeprefix("checked ")) > 15
