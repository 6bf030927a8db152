"""The index of who selects whom finds what a look at everything would find, after any history of changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.controllers.objects import EndpointSlice, Meta, Pod, Service, ServiceSpec, matches
from kubeproxy.controllers.selection import Members
from kubeproxy.model.decode import SERVICE_NAME_LABEL

pytestmark = pytest.mark.unit

NAMES = st.sampled_from("abc")
LABELS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), min_size=1, max_size=3)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["pod", "service", "slice"]), NAMES, st.none() | LABELS), min_size=1, max_size=25
)


@given(CHANGES)
def test_the_index_agrees_with_a_look_at_everything(changes):
    members = Members()
    pods, services, slices = {}, {}, {}
    for kind, name, labels in changes:
        key = ("n", name)
        if kind == "pod":
            pods[key] = labels and Pod(metadata=Meta(name=name, namespace="n", labels=labels))
            members.set_pod(key, pods[key])
        elif kind == "service":
            services[key] = labels and Service(metadata=Meta(name=name), spec=ServiceSpec(selector=labels))
            members.set_service(key, services[key])
        else:
            owner = labels and {SERVICE_NAME_LABEL: min(labels)}
            slices[key] = owner and EndpointSlice(metadata=Meta(name=name, labels=owner))
            members.set_slice(key, slices[key])
    standing = [pod for pod in pods.values() if pod]
    for key, service in services.items():
        if service:
            selector = service.spec.selector
            wanted = [pod for pod in standing if matches(selector, pod.metadata.labels)]
            found = [pod for pod in members.selected_by(selector) if matches(selector, pod.metadata.labels)]
            assert sorted(found, key=repr) == sorted(wanted, key=repr)
            for pod in standing:
                assert (key in set(members.selecting(pod))) == (pod in wanted)
    for owner in "xyz":
        wanted = {
            key: each
            for key, each in slices.items()
            if each and each.metadata.labels == {SERVICE_NAME_LABEL: owner}
        }
        assert members.slices_of(owner) == wanted
