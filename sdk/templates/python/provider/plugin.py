"""{{name}}: environments inside the hub, each in a folder with a copy of the project."""

from typing import Any

from waypost_sdk import CallError, Health, Place, Wanted, log, provider, workspace


class Folders:
    def create(self, wanted: Wanted) -> Place:
        log.info(f"{wanted.environment} is made for {purpose(wanted.settings)}")
        return Place.component(workspace.create(wanted.environment))

    def reconnect(self, environment: str, resource_id: str) -> Place:
        if not workspace.exists(resource_id):
            raise CallError.not_found(f"the folder of {environment} is gone; make a new environment")
        return Place.component(resource_id)

    def inspect(self, resource_id: str) -> Health:
        return health(workspace.exists(resource_id))

    def teardown(self, resource_id: str) -> None:
        workspace.remove(resource_id)


Provider = provider(Folders())


def purpose(settings: Any) -> str:
    """The only setting that there is."""
    for unknown in settings.keys() - {"purpose"}:
        raise CallError.invalid(f"there is no setting `{unknown}`; there is `purpose`")
    found = settings.get("purpose", "any work")
    if not isinstance(found, str):
        raise CallError.invalid("`purpose` is a text")
    return found


def health(exists: bool) -> Health:
    """How a place is."""
    return Health.READY if exists else Health.GONE
