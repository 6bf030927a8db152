"""What /metrics says, for tests to ask."""

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text):
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name, /, **labels):
        """Sum the samples of a name that have all these labels; None when there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


async def scrape(session, url="", **headers):
    async with session.get(f"{url}/metrics", headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "text/plain")
        return Scrape(await answer.text())
