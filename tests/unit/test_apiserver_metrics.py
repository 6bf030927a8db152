"""What /metrics shows of requests, refusals, watches, the store and the controllers, and to whom."""

import asyncio
from contextlib import asynccontextmanager
from ipaddress import ip_network

import aiohttp
import pytest

from kubeproxy.apiserver.allocate import Ranges
from kubeproxy.apiserver.authentication import Authenticator, TokenFile
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.store.base import NoSpace, Unavailable
from kubeproxy.store.sqlite import SqliteStore
from tests.apiserver_bed import CONFIG_MAPS, SERVICES, api_bed, api_on, service
from tests.scraping import scrape
from tests.unit.test_apiserver_watch import watching

pytestmark = pytest.mark.unit


async def until(client, url, check):
    async with asyncio.timeout(10):
        while not check(found := await scrape(client, url)):
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def guarded(directory):
    """A server that asks who comes; the values are its bed and the headers of an administrator and a scraper."""
    tokens = directory / "tokens.csv"
    tokens.write_text("s3cret,prometheus,1,system:monitoring\n")
    authenticator = Authenticator(tokens=TokenFile(tokens))
    async with await SqliteStore.open(":memory:") as store, api_on(store, authenticator=authenticator) as bed:
        admin = {"Authorization": f"Bearer {authenticator.loopback_token}"}
        yield bed, admin, {"Authorization": "Bearer s3cret"}


async def test_requests_refusals_and_watches_are_counted_and_shown_to_who_may_see_them(tmp_path):
    async with guarded(tmp_path) as (bed, admin, scraper):
        for headers, code in (({"Authorization": "Bearer wrong"}, 401), ({}, 403), (scraper, 403)):
            assert (await bed.call("GET", SERVICES, **headers))[0] == code
        for path in (f"{SERVICES}/none", "/nowhere"):
            assert (await bed.call("GET", path, **admin))[0] == 404
        assert (await bed.call("POST", SERVICES, service("a"), **admin))[0] == 201
        assert (await bed.call("GET", "/metrics"))[0] == 403
        assert (await bed.call("POST", "/metrics", **admin))[0] == 405

        services = {"resource": "services", "group": "", "version": "v1", "subresource": ""}
        async with watching(bed, SERVICES, headers=admin) as event:
            await event()
            found = await scrape(bed.client, **scraper)
        open_watches = {"verb": "WATCH", "scope": "namespace", **services}
        assert found.value("apiserver_longrunning_requests", **open_watches) == 1
        assert found.value("apiserver_request_total", verb="WATCH") is None
        counted = [("LIST", 401, "namespace", 1), ("LIST", 403, "namespace", 2), ("GET", 404, "resource", 1)]
        for verb, code, scope, times in [*counted, ("POST", 201, "resource", 1)]:
            labels = {"verb": verb, "scope": scope, **services}
            assert found.value("apiserver_request_total", code=str(code), **labels) == times
            assert found.value("apiserver_request_duration_seconds_count", **labels) >= times
        assert found.value("apiserver_request_total", resource="", subresource="", code="404") == 1
        assert found.value("apiserver_request_total", subresource="/metrics", code="403") == 1
        assert found.value("authentication_attempts_total", result="failure") == 1
        assert found.value("authorization_attempts_total", result="denied") == 3
        assert found.value("apiserver_current_inflight_requests") == 1  # the scrape

        async with asyncio.timeout(5):
            while found.value("apiserver_request_total", code="200", **open_watches) is None:
                found = await scrape(bed.client, **scraper)
        assert found.value("apiserver_longrunning_requests", **open_watches) == 0


async def test_no_request_makes_labels_of_its_own():
    async with api_bed() as bed:
        for method in ("LOCK", "GET", "DELETE"):
            await bed.call(method, "/x")
        await scrape(bed.client)
        before = len((await scrape(bed.client)).samples)
        for n in range(20):
            for path in (f"/x{n}", f"/api/v1/x{n}", f"/apis/x{n}/v1/y", f"{CONFIG_MAPS}/a/x{n}", f"/metrics/{n}"):
                for method in ("LOCK", "PROPFIND", "GET", "DELETE"):
                    await bed.call(method, path)
        assert len((await scrape(bed.client)).samples) == before


@pytest.mark.parametrize(("error", "name"), [(Unavailable("gone"), "away"), (NoSpace("full"), "full")])
async def test_failures_of_the_store_are_counted(error, name, monkeypatch):
    async with api_bed() as bed:

        async def fail(*_arguments, **_keywords):
            raise error

        monkeypatch.setattr(bed.registry.store, "txn", fail)
        await bed.refused(CONFIG_MAPS, {"metadata": {"name": "c"}})
        assert (await scrape(bed.client)).value("kubeproxy_apiserver_store_errors_total", error=name) == 1


async def test_a_server_shows_whether_it_leads_and_how_its_controllers_do():
    ranges = Ranges(networks=(ip_network("10.96.0.0/12"),))
    settings = Settings(store="sqlite::memory:", ranges=ranges, port=0)
    async with running(settings, SystemClock()) as url, aiohttp.ClientSession() as session:
        leads = {"name": "kube-controller-manager"}
        found = await until(
            session,
            url,
            lambda now: (
                now.value("leader_election_master_status", **leads)
                and now.value("workqueue_depth", name="EndpointSlices") is not None
            ),
        )
        assert found.value("workqueue_retries_total", name="garbage collector") == 0
        assert found.value("kubeproxy_apiserver_connections_refused_total", server="api") == 0
        assert found.value("kubeproxy_apiserver_feed_revision") > 0
        assert found.value("process_open_fds") > 0
