"""Who may do what: the roles as a matrix, the token file, and upstream's words for a no."""

import pytest

from kubeproxy.apiserver.authorization import Attributes, Decision, decide, explain
from kubeproxy.apiserver.kinds import KINDS
from kubeproxy.apiserver.users import ANONYMOUS, MASTERS, NODES, authenticated, of_certificate, parse_tokens

pytestmark = pytest.mark.unit

ADMIN = authenticated("kubernetes-admin", [MASTERS])
NODE = authenticated("system:node:node1", [NODES])
PROXY = authenticated("system:kube-proxy", [])
DNS = authenticated("system:serviceaccount:kube-system:coredns", [])
FLANNEL = authenticated("f", ["flannel"])
VIEWER = authenticated("alice", ["view"])
NOBODY = authenticated("bob", [])
EVERYBODY = {
    "admin": ADMIN,
    "node": NODE,
    "proxy": PROXY,
    "dns": DNS,
    "flannel": FLANNEL,
    "view": VIEWER,
    "bob": NOBODY,
    "anonymous": ANONYMOUS,
}


def on(verb, resource, group="", namespace="", name=""):
    plural, _, sub = resource.partition("/")
    return Attributes(verb=verb, group=group, resource=plural, subresource=sub, namespace=namespace, name=name)


def at(path, verb="get"):
    return Attributes(verb=verb, path=path)


DISCOVERY, COORDINATION = "discovery.k8s.io", "coordination.k8s.io"
LEASES = "kube-node-lease"

MATRIX = [
    # what is asked, and for whom the answer is yes
    (at("/healthz"), "admin node proxy dns flannel view bob anonymous"),
    (at("/readyz"), "admin node proxy dns flannel view bob anonymous"),
    (at("/livez"), "admin node proxy dns flannel view bob anonymous"),
    (at("/version"), "admin node proxy dns flannel view bob"),
    (at("/apis/apps/v1"), "admin node proxy dns flannel view bob"),
    (at("/"), "admin node proxy dns flannel view bob"),
    (at("/metrics"), "admin"),
    (at("/apis", "post"), "admin"),
    (on("create", "selfsubjectaccessreviews", "authorization.k8s.io"), "admin node proxy dns flannel view bob"),
    (on("list", "services"), "admin node proxy dns view"),
    (on("watch", "endpointslices", DISCOVERY), "admin node proxy dns view"),
    (on("get", "services", namespace="default", name="a"), "admin node view"),
    (on("list", "nodes"), "admin node proxy flannel view"),
    (on("list", "pods", namespace="default"), "admin node dns view"),
    (on("list", "configmaps", namespace="default"), "admin node view"),
    (on("list", "deployments", "apps"), "admin view"),
    (on("create", "services", namespace="default"), "admin"),
    (on("delete", "services", namespace="default", name="a"), "admin"),
    (on("deletecollection", "services", namespace="default"), "admin"),
    (on("patch", "deployments/scale", "apps", "default", "d"), "admin"),
    (on("create", "events", namespace="default"), "admin node proxy"),
    (on("patch", "events", namespace="default", name="e"), "admin node proxy"),
    (on("delete", "events", namespace="default", name="e"), "admin"),
    (on("patch", "nodes", name="node1"), "admin node"),
    (on("patch", "nodes/status", name="node1"), "admin node flannel"),
    (on("patch", "nodes", name="node2"), "admin"),
    (on("patch", "nodes/status", name="node2"), "admin flannel"),
    (on("delete", "nodes", name="node1"), "admin"),
    (on("patch", "leases", COORDINATION, LEASES, "node1"), "admin node"),
    (on("patch", "leases", COORDINATION, LEASES, "node2"), "admin"),
    (on("patch", "leases", COORDINATION, "kube-system", "node1"), "admin"),
    (on("create", "pods", namespace="default"), "admin"),
    (on("create", "pods/binding", namespace="default", name="p"), "admin"),
    (on("list", "secrets", namespace="default"), "admin view"),
]


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    MATRIX,
    ids=lambda value: explain(ADMIN, value)[29:] if isinstance(value, Attributes) else "",
)
def test_the_roles_allow_just_this(wanted, allowed):
    yes = {name for name, user in EVERYBODY.items() if decide(user, wanted) is Decision.ALLOWED}
    assert yes == set(allowed.split())


@pytest.mark.parametrize(
    ("wanted", "decision"),
    [
        (on("create", "nodes"), Decision.OWN_NAME),
        (on("create", "leases", COORDINATION, LEASES), Decision.OWN_NAME),
        (on("patch", "pods/status", namespace="default", name="p"), Decision.OWN_POD),
        (on("delete", "pods", namespace="default", name="p"), Decision.OWN_POD),
    ],
)
def test_some_answers_wait_for_the_object(wanted, decision):
    assert decide(NODE, wanted) is decision


def test_a_node_agent_needs_both_its_name_and_its_group():
    for user in (authenticated("system:node:node1", []), authenticated("node1", [NODES])):
        assert decide(user, on("patch", "nodes", name="node1")) is Decision.DENIED


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            on("list", "services", namespace="default"),
            'User "bob" cannot list resource "services" in API group "" in the namespace "default"',
        ),
        (
            on("patch", "nodes/status", name="n"),
            'User "bob" cannot patch resource "nodes/status" in API group "" at the cluster scope',
        ),
        (at("/metrics"), 'User "bob" cannot get path "/metrics"'),
    ],
)
def test_a_no_has_upstreams_words(wanted, words):
    assert explain(NOBODY, wanted) == words


def test_a_token_file_is_upstreams():
    tokens = parse_tokens('# admin\nt1,alice,1001,"system:masters,dev"\n\nt2, bob ,2\n')
    alice, bob = tokens.values()
    assert (alice.name, alice.uid, alice.groups) == (
        "alice",
        "1001",
        ("system:masters", "dev", "system:authenticated"),
    )
    assert (bob.name, bob.groups) == ("bob", ("system:authenticated",))


@pytest.mark.parametrize(
    "text",
    [
        *("s3cret,alice", "s3cret", ",a,1", "s3cret,,1", "s3cret,a,1\ns3cret,b,2", 's3cret,a,1,"g,h",x'),
        *(
            's3cret,a,1,"view\nother,root,0,system:masters',
            's3cret,a,1,"view" x',
            "s3cret,a\x00,1",
            "s3cret,a\x85b,1",
        ),
    ],
)
def test_a_bad_token_file_is_told_by_its_line_and_no_token(text):
    with pytest.raises(ValueError, match=r"^line") as raised:
        parse_tokens(text)
    assert "s3cret" not in str(raised.value)


def test_a_certificate_says_user_and_groups():
    subject = ((("organizationName", "g1"),), (("organizationName", "g2"),), (("commonName", "u"),))
    user = of_certificate(subject)
    assert user is not None
    assert (user.name, user.groups) == ("u", ("g1", "g2", "system:authenticated"))
    assert of_certificate(((("organizationName", "g1"),),)) is None


def test_who_may_update_what_an_update_creates_may_create_it():
    """A PUT that creates asks for `update` only; upstream asks for `create` too."""
    for kind in KINDS:
        if kind.create_on_update:
            for user in EVERYBODY.values():
                may = [
                    decide(user, on(verb, kind.plural, kind.group, namespace, user.node))
                    for verb in ("update", "create")
                    for namespace in ("default", LEASES)
                ]
                assert may[:2] == may[2:]
