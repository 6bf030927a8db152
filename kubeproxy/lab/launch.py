"""Making a lab from the host's side: claim the name, open the API's port, start process 1, follow its reports.

Whoever launches holds one end of the control socket. While it is held, the lab lives no longer than the holder,
killed or not; `detach` lets it go on alone. Nothing is left when a launch fails.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from kubeproxy.lab import checks, identities, layout, state
from kubeproxy.lab.init import Report, tail
from kubeproxy.lab.state import LabError, Record


class Launch:
    """A lab in the making, held by this process until `detach`."""

    def __init__(self, name: str, *, nodes: int, mode: str, overlay: str, vm: str = layout.NO_VM) -> None:
        """Claim the name and start; raise LabError when the machine, or another lab, is in the way."""
        state.check_name(name)
        lacking = checks.lacks(overlay, vm, nodes, mode)
        if lacking:
            raise LabError("failed to create lab: " + "\n".join(lacking))
        # Made in the host's namespace, it stays reachable there wherever the descriptor goes.
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        with listener:
            port = listener.getsockname()[1]
            record = Record(
                name=name, nodes=nodes, mode=mode, overlay=overlay, vm=vm, api_port=port, creator=state.myself()
            )
            self.lab = state.claim(record)
            self.warnings: list[str] = []
            """What `reports` told of parts that are missing."""
            self._control, theirs = socket.socketpair()
            with theirs:
                try:
                    identities.write(self.lab)
                    self._start(theirs.fileno(), listener.fileno())
                except BaseException:
                    self.destroy()
                    raise

    def _start(self, control: int, listen: int) -> None:
        argv = [
            sys.executable,
            "-m",
            "kubeproxy.lab.init",
            f"--directory={self.lab.directory}",
            f"--control-fd={control}",
            f"--listen-fd={listen}",
        ]
        log = self.lab.directory / "logs/init.log"
        with log.open("ab") as output:
            # Its own session: the terminal's Ctrl-C is for us, who then take the lab down in order.
            init = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(control, listen),
                start_new_session=True,
                check=False,
            )
        if init.returncode:
            raise LabError(f"failed to create lab: {self._first_error() or tail(log)}")

    def _first_error(self) -> str:
        self._control.setblocking(False)
        try:
            line = self._control.recv(65536).partition(b"\n")[0]
        except BlockingIOError:
            return ""
        return msgspec.json.decode(line, type=Report).error if line else ""

    def reports(self) -> Iterator[Report]:
        """Yield each step as it begins and as it is done, until all is ready. Raises LabError."""
        with self._control.makefile("rb") as lines:
            for line in lines:
                report = msgspec.json.decode(line, type=Report)
                if report.error:
                    raise LabError(f"failed to create lab: {report.error}")
                if report.warning:
                    self.warnings.append(report.warning)
                yield report
                if report.ready:
                    return
        raise LabError(f"failed to create lab: it was killed\n{tail(self.lab.directory / 'logs/supervisor.log')}")

    def detach(self) -> None:
        """Let the lab live on without this process."""
        self._control.sendall(b"detach\n")
        self._control.close()

    def abandon(self) -> None:
        """End the lab but keep its directory, a dead lab's, for whoever wants to know why."""
        self._control.close()
        lab = state.read(self.lab.directory)
        if lab is not None:
            state.end(lab.record.init, signal.SIGKILL)

    def destroy(self) -> None:
        """End the lab and remove all of it."""
        self._control.close()
        state.remove(self.lab)


def take_down_undisturbed() -> None:
    """Let no second Ctrl-C, and no closed terminal, leave half of a lab that is being taken down."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
