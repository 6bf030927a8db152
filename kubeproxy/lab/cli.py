"""`kubeproxy lab`: up, demo, exec, env, status, list, down.

Words, defaults and exit statuses are kind's where kind has the command: 1 for what cannot be done, with one
line that says why; 2 with the usage for a wrong command line; `exec` ends with its command's own status.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from kubeproxy.lab import checks, layout, state
from kubeproxy.lab.state import LabError, State

DEFAULT_NAME = "lab"
DEMO_NAME = "demo"
MODES = ("iptables", "ipvs", "nftables")
"""`options.BUILT_MODES`, which every `lab exec` would pay 0.3 s for."""
INTERRUPTED = 130
EXEC_USAGE = "kubeproxy lab exec [-i] [-t] [-n NAMESPACE] NAME TARGET -- COMMAND [ARGUMENT...]"


def _node_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= layout.MAX_NODES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {layout.MAX_NODES}")
    return int(text)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kubeproxy lab",
        allow_abbrev=False,
        description="Run a cluster of several nodes on this machine. Nodes and pods are network namespaces; with "
        "--vm, nodes are small virtual machines.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    for command, summary, default in (
        ("up", "create a lab and leave it running in the background", DEFAULT_NAME),
        ("demo", "create a lab, run the nginx tutorial on it, check every step, remove the lab", DEMO_NAME),
    ):
        making = add(command, summary)
        making.add_argument(
            "--nodes", type=_node_count, default=2, metavar="N", help="nodes of the lab (default 2)"
        )
        making.add_argument(
            "--mode", choices=MODES, default="iptables", help="the proxy's mode (default iptables)"
        )
        making.add_argument(
            "--vm",
            choices=layout.VMS,
            default=layout.NO_VM,
            help="what nodes are: network namespaces of this kernel (none, the default), or User-Mode Linux "
            "machines, each with a kernel of its own (uml)",
        )
        making.add_argument(
            "--overlay", choices=["vxlan", "udp"], default="vxlan", help="flannel's backend (default vxlan)"
        )
        making.add_argument("--name", default=default, help=f"the lab's name (default {default})")
        making.add_argument("--retain", action="store_true", help="keep what there is for debugging when it fails")
    running = add("exec", "run a command in a node, a pod, or the machine outside the cluster")
    running.usage = EXEC_USAGE
    running.epilog = "TARGET: node1, node2, ..., control, outside, pod/NAME or pod/NAMESPACE/NAME"
    running.add_argument(
        "-i", "--stdin", action="store_true", help="as kubectl has it; standard input is always given"
    )
    running.add_argument(
        "-t", "--tty", action="store_true", help="on a terminal (always, where this command is on one)"
    )
    running.add_argument("-n", "--namespace", default="default", help="the pod's namespace (default default)")
    running.add_argument("name", metavar="NAME", help="the lab's name")
    running.add_argument("target", metavar="TARGET", help="where to run it")
    env = add("env", 'print the line that points kubectl at a lab: eval "$(kubeproxy lab env NAME)"')
    env.add_argument("name", metavar="NAME", nargs="?", default=DEFAULT_NAME, help="the lab's name (default lab)")
    status = add("status", "show labs, their machines and their programs")
    status.add_argument("name", metavar="NAME", nargs="?", default="", help="the lab's name (default: every lab)")
    add("list", "print the names of the labs there are")
    down = add("down", "remove a lab: processes, namespaces, files")
    which = down.add_mutually_exclusive_group()
    which.add_argument("name", metavar="NAME", nargs="?", default="", help="the lab's name (default lab)")
    which.add_argument("--all", action="store_true", help="remove every lab")
    given, rest = parser.parse_known_args(argv)
    if rest:
        # argparse would complain with the usage of `kubeproxy lab`, which does not help.
        commands.choices[given.command].error(f"unrecognized arguments: {' '.join(rest)}")
    return given


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _up(given: argparse.Namespace) -> int:
    from kubeproxy.lab import show
    from kubeproxy.lab.launch import Launch, take_down_undisturbed

    console = show.console()
    # Whatever ends this command before the lab is ready takes the lab down with it.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    launch = Launch(given.name, nodes=given.nodes, mode=given.mode, overlay=given.overlay, vm=given.vm)
    try:
        console.print(f'Creating lab "{given.name}" ...', highlight=False)
        steps = show.follow(console, launch.reports())
        launch.detach()
    except BaseException as error:
        take_down_undisturbed()
        if given.retain and isinstance(error, LabError):
            launch.abandon()
            raise LabError(f"{error}\nwhat it wrote is kept in {launch.lab.directory}/logs") from None
        launch.destroy()
        raise
    console.print(f"Ready after {sum(seconds for _, seconds in steps):.1f} s. Use it with:", highlight=False)
    console.print(f'\n  eval "$(kubeproxy lab env {given.name})" && kubectl get nodes\n', highlight=False)
    if launch.warnings:
        raise LabError(f"the lab runs without some of its nodes; see `kubeproxy lab status {given.name}`")
    return 0


def _demo(given: argparse.Namespace) -> int:
    from kubeproxy.lab import demo

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    return demo.run(
        given.name, nodes=given.nodes, mode=given.mode, overlay=given.overlay, vm=given.vm, retain=given.retain
    )


def _exec(given: argparse.Namespace, command: Sequence[str]) -> int:
    from kubeproxy.lab import exec as lab_exec

    return lab_exec.run(
        state.find(given.name), given.target, command, namespace=given.namespace, terminal=given.tty
    )


def _env(given: argparse.Namespace) -> int:
    lab = state.find(given.name)
    if lab.state is State.DEAD:
        raise LabError(f'lab "{given.name}" does not run; `kubeproxy lab up --name {given.name}` starts it anew')
    print(f"export KUBECONFIG={shlex.quote(os.fspath(lab.kubeconfig))}")
    return 0


def _status(given: argparse.Namespace) -> int:
    from kubeproxy.lab import show

    labs = (state.find(given.name),) if given.name else state.every()
    if not labs:
        print("No labs found.", file=sys.stderr)
    for lab in labs:
        show.status(show.console(), lab)
    return 0 if all(lab.state is State.RUNNING for lab in labs) else 1


def _list(_given: argparse.Namespace) -> int:
    labs = state.every()
    if not labs:
        print("No labs found.", file=sys.stderr)
    for lab in labs:
        print(lab.record.name)
    return 0


def _down(given: argparse.Namespace) -> int:
    name = state.check_name(given.name or DEFAULT_NAME)
    lab = state.read(state.labs_directory() / name)
    found = state.every() if given.all else ((lab,) if lab else ())
    if not found:
        print("No labs found." if given.all else f'No lab "{name}"; nothing to delete.', file=sys.stderr)
    for each in found:
        state.remove(each)
        print(f'Deleted lab "{each.directory.name}".')
    return 0


def _wrong_command(subcommand: str) -> int:
    complaint = "put the command to run after --" if subcommand == "exec" else "takes no command after --"
    if subcommand == "exec":
        print(f"usage: {EXEC_USAGE}", file=sys.stderr)
    print(f"kubeproxy lab {subcommand}: error: {complaint}", file=sys.stderr)
    return 2


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    own, command = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, command = own[:cut], own[cut + 1 :]
    given = _parse(own)
    if (given.command == "exec") != bool(command):
        return _wrong_command(given.command)
    os.environ["PATH"] = checks.search_path()
    handlers = {"up": _up, "demo": _demo, "env": _env, "status": _status, "list": _list, "down": _down}
    try:
        if given.command == "exec":
            return _exec(given, command)
        return handlers[given.command](given)
    except LabError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
