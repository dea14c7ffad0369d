"""Makes this process a host, then sleeps: its namespaces live as long as it does.

Runs as a script in fresh network, hostname and mount namespaces; it imports nothing of the
package. The one argument is JSON: name, hosts (file for /etc/hosts), tmp (folder for /tmp),
share (folders in /tmp that stay visible), binds (pairs of folders), ready (file for our pid).
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Set the host up and turn into `sleep`."""
    plan = json.loads(sys.argv[1])
    socket.sethostname(plan["name"])
    bind(plan["hosts"], "/etc/hosts")
    for source, target in plan["binds"]:
        bind(source, target)
    # Into the private folder first, while the machine's /tmp can still be seen.
    for folder in plan["share"]:
        target = Path(plan["tmp"] + folder.removeprefix("/tmp"))
        target.mkdir(parents=True, exist_ok=True)
        bind(folder, str(target))
    bind(plan["tmp"], "/tmp")
    new = Path(plan["ready"] + ".new")
    new.write_text(str(os.getpid()))
    new.rename(plan["ready"])
    os.execvp("sleep", ["sleep", "infinity"])


def bind(source: str, target: str) -> None:
    """Show `source`, with what is mounted in it, at `target`."""
    subprocess.run(["mount", "--rbind", source, target], check=True)


if __name__ == "__main__":
    main()
