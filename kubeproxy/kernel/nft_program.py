"""The `nft` program: what has no netlink messages of ours yet. Blocking."""

import shutil

from kubeproxy.kernel.exec import CommandMissing, Exec

TIMEOUT_SECONDS = 300


class NftProgram:
    """In the network namespace of the calling thread."""

    def __init__(self, execute: Exec) -> None:
        self._execute = execute

    def is_installed(self) -> bool:
        """Return whether there is such a program."""
        return shutil.which("nft") is not None

    def commit(self, commands: str, *, check_only: bool = False) -> None:
        """Carry out commands as one transaction. Raises CommandFailed, CommandMissing."""
        argv = ["nft", *(["-c"] if check_only else []), "-f", "-"]
        try:
            self._execute.run(argv, stdin=commands, timeout=TIMEOUT_SECONDS)
        except CommandMissing:
            raise CommandMissing("nft: not installed (Debian: apt-get install nftables)") from None
