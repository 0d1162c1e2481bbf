"""All calls that are given bad inputs."""

from tests.faults.apis import banks, cameras, memory, models, parts, runs, videos

APIS = (*cameras.APIS, *memory.APIS, *banks.APIS, *parts.APIS, *videos.APIS, *models.APIS, *runs.APIS)
