"""flanneld's flags as a table, with upstream's names and defaults; each is also read from FLANNELD_<NAME>.

Flags that flanneld has and this does not have yet are known and refused by name, so that nobody believes that
they are in force.
"""

from flannel.nodes import DEFAULT_PREFIX
from kubeproxy.flags import CommandLine, Flag, Style, boolean, integer

FLAGS = (
    Flag(
        "etcd-endpoints",
        str,
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "a comma-delimited list of etcd endpoints",
    ),
    Flag("etcd-prefix", str, "/coreos.com/network", "etcd prefix"),
    Flag("etcd-keyfile", str, "", "SSL key file used to secure etcd communication"),
    Flag("etcd-certfile", str, "", "SSL certification file used to secure etcd communication"),
    Flag("etcd-cafile", str, "", "SSL Certificate Authority file used to secure etcd communication"),
    Flag("etcd-username", str, "", "username for BasicAuth to etcd"),
    Flag("etcd-password", str, "", "password for BasicAuth to etcd; FLANNELD_ETCD_PASSWORD keeps it out of ps"),
    Flag(
        "iface",
        str,
        (),
        "interface to use (IP or name) for inter-host communication; may be repeated",
        repeatable=True,
    ),
    Flag(
        "iface-regex",
        str,
        (),
        "regex expression to match the first interface to use; may be repeated",
        repeatable=True,
    ),
    Flag("iface-can-reach", str, "", "detect interface to use by what reaches the given IP"),
    Flag("subnet-file", str, "/run/flannel/subnet.env", "filename where env variables will be written to"),
    Flag("public-ip", str, "", "IP accessible by other nodes for inter-host communication"),
    Flag("subnet-lease-renew-margin", integer, 60, "subnet lease renewal margin, in minutes, from 1 to 1439"),
    Flag("ip-masq", boolean, False, "setup IP masquerade rule for traffic destined outside of overlay network"),
    Flag(
        "ip-masq-fully-random-disable",
        boolean,
        False,
        "setup IP masquerade rules without fully-random port mapping",
    ),
    Flag("iptables-resync", integer, 5, "resync period for iptables rules, in seconds"),
    Flag("iptables-forward-rules", boolean, True, "add default accept rules to FORWARD chain in iptables"),
    Flag("healthz-ip", str, "0.0.0.0", "the IP address for healthz server to listen"),
    Flag("healthz-port", integer, 0, "the port for healthz server to listen (0 to disable)"),
    Flag("kube-subnet-mgr", boolean, False, "contact the Kubernetes API for subnet assignment instead of etcd"),
    Flag("kube-api-url", str, "", "Kubernetes API server URL. Does not need to be specified in a pod"),
    Flag("kubeconfig-file", str, "", "kubeconfig file location. Does not need to be specified in a pod"),
    Flag("kube-annotation-prefix", str, DEFAULT_PREFIX, "Kubernetes annotation prefix"),
    Flag("net-config-path", str, "/etc/kube-flannel/net-conf.json", "path to the network configuration file"),
    Flag("set-node-network-unavailable", boolean, True, "set NodeNetworkUnavailable after ready"),
    Flag("version", boolean, False, "print version and exit"),
    Flag("v", integer, 0, "number for the log level verbosity"),
)

NOT_BUILT = frozenset(
    {
        "public-ipv6",
        "ip-blackhole-route",
        "vmodule",
        "log_backtrace_at",
    }
)

COMMAND_LINE = CommandLine(
    "flanneld",
    "The overlay of one node: leases a subnet from the store and keeps the kernel's routes to all others.",
    FLAGS,
    Style.GO,
    environment_prefix="FLANNELD_",
    not_built=NOT_BUILT,
)
