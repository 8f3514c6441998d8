"""Opens pages of the built site in a headless Chromium (Debian's package chromium), as a reader gets them, scripts run:

    python tools/browse.py SITE [PAGE...]

Each must have its title and heading; exit code 1 otherwise. Asks nobody but the server that it starts here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGES = ("", "tutorial/", "commands/", "types/", "writing/", "api/", "troubleshooting/", "safety/")
#: Seconds for one page, and of the page's own clock for its scripts.
LIMIT, SCRIPTS = 120, 5
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


def open_page(browser: str, address: str, profile: str) -> str:
    """What the page is once its scripts have run."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={profile}"]
    command += [f"--virtual-time-budget={SCRIPTS * 1000}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True).stdout


def main(site: Path, pages: tuple[str, ...]) -> int:
    browser = shutil.which("chromium")
    if browser is None:
        print("there is no chromium here; apt-get install chromium", file=sys.stderr)
        return 1
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wrong = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for page in pages:
            dom = open_page(browser, f"http://127.0.0.1:{server.server_port}/{page}", profile)
            title, heading = (re.search(rf"<{tag}[^>]*>([^<]+)", dom) for tag in ("title", "h1"))
            good = title is not None and heading is not None and "md-content" in dom
            wrong += not good
            print(f"/{page}: {heading[1] if heading else 'no heading'}{'' if good else ' WRONG'}")
    server.shutdown()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), tuple(sys.argv[2:]) or PAGES))
